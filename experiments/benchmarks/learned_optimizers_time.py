"""Running time of the learned optimisers beside MAML, in one run (Huisman et al. 2022, Figure 3.4).

The training step of each meta-learner in its own setting (inner steps, meta-batch), on the data set of the
flags; the programs take turns. Prints milliseconds a task and draws seconds for 1,000 tasks.

python -m experiments.benchmarks.learned_optimizers_time [--dataset=glyphs] [--shot=1] [--output=runs/time]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments import learned_optimizers
from experiments.common import Experiment, Flag, launch, parse, shared, write_json


def program(algorithm: str, settings: SimpleNamespace) -> tuple[Callable[[int], Any], int]:
    """A function that takes some training steps of an algorithm, and the tasks of a step."""
    import jax

    from jmeta.data.episodes import sample_tasks
    from jmeta.outer.load import build

    names = ("dataset", "data_dir", "way", "shot", "query", "filters", "image_size")
    given = [f"--{name}={getattr(settings, name)}" for name in names if getattr(settings, name) is not None]
    if settings.dataset == "sinusoid":
        given = [flag for flag in given if not flag.startswith(("--way", "--filters", "--image_size"))]
    arguments = ["", f"--algorithm={algorithm}", *given]
    own = learned_optimizers.settle(parse(learned_optimizers.EXPERIMENT, arguments))
    made = learned_optimizers.compose(own)
    _, learner = build(made.recipe)
    key = jax.random.key(0)
    task = jax.jit(lambda sampler: sampler(key))(made.train)
    state = jax.jit(lambda: learner.init(key, task))()

    @jax.jit
    def train(state: Any, sampler: Any, count: Any) -> Any:
        def step(_: Any, state: Any) -> Any:
            return learner.step(state, sample_tasks(sampler, key, state.step, own.meta_batch))[0]

        return jax.lax.fori_loop(0, count, step, state)

    return lambda count: jax.block_until_ready(train(state, made.train, count).meta), own.meta_batch


def run(settings: SimpleNamespace) -> int:
    """Time every meta-learner in turns, print, draw."""
    import jax
    import numpy as np

    from jmeta.report import figures

    made = {name: program(name, settings) for name in learned_optimizers.META_LEARNERS}
    for train, _ in made.values():
        train(1)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(settings.rounds):
        for name, (train, meta_batch) in made.items():
            begun = time.perf_counter()
            train(settings.steps)
            seconds[name].append((time.perf_counter() - begun) / settings.steps / meta_batch)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    for name, value in median.items():
        low, high = min(seconds[name]), max(seconds[name])
        print(f"{name:<20}{1e3 * value:10.2f} ms a task ({1e3 * low:.2f} to {1e3 * high:.2f})")
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    report = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "setting": vars(settings)}
    write_json(output / "time.json", report | {"seconds_per_task": seconds})
    shown = {
        learned_optimizers.PAPER_NAMES[name]: (1e3 * value, 1.96e3 * float(np.std(seconds[name])))
        for name, value in median.items()
    }
    print(f"figure in {figures.bars(shown, output / 'time.png', label='seconds for 1,000 tasks')}")
    return 0


FLAGS = shared("dataset", "data_dir", "image_size", "way", "shot", "query", "filters") | {
    "rounds": Flag("integer", 5, "timings of each meta-learner"),
    "steps": Flag("integer", 2, "training steps of a timing"),
    "output": Flag("string", "runs/learned_optimizers_time", "folder of time.json and time.png"),
}

if __name__ == "__main__":
    launch(Experiment("benchmarks.learned_optimizers_time", __doc__ or "", FLAGS, {}, run))
