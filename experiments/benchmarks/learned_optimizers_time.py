"""Running time of the learned optimisers beside MAML (Huisman et al. 2022, Figure 3.4).

Without --results: the training step of each meta-learner, one seed, in the paper's settings for --shot (inner
steps, meta-batch, query set, network; see learned_optimizers' presets of Table 3.1), on the data set of the
flags; the programs take turns. Prints milliseconds a task and draws the median of the seconds for 1,000
tasks, with the least and the greatest of the rounds as whiskers.

With --results=FOLDER: as in the paper, what whole runs took (start-up, training, validations and test; of
several seeds side by side, all of them together) against their accuracy, a panel for each data set and shot.
FOLDER is the --output of experiments.benchmarks.rows --experiment=learned_optimizers
--presets='table3_1_*'; rows that are not finished are left out. The paper's runs are of one seed each and
also test on CUB.

python -m experiments.benchmarks.learned_optimizers_time [--dataset=glyphs] [--shot=1] [--output=runs/time]
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments import learned_optimizers
from experiments.benchmarks.rows import is_finished, seconds
from experiments.common import Experiment, Flag, UsageError, launch, parse, shared, write_json
from experiments.learned_optimizers_presets import META_LEARNERS, OTHER_DATA, PAPER_NAMES

TASK_FLAGS = ("dataset", "data_dir", "image_size", "way", "shot", "query", "filters")


def program(algorithm: str, settings: SimpleNamespace) -> tuple[Callable[[int], Any], int]:
    """A function that takes some training steps of an algorithm, and the tasks of a step."""
    import jax

    from jmeta.data.episodes import sample_tasks
    from jmeta.outer.load import build

    values = {name: getattr(settings, name) for name in TASK_FLAGS}
    given = [f"--{name}={value}" for name, value in values.items() if value is not None]
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
    """Time training steps, or collect whole runs; print and draw."""
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    return time_steps(settings, output) if settings.results is None else collect(settings, output)


def time_steps(settings: SimpleNamespace, output: Path) -> int:
    """Time every meta-learner in turns."""
    import jax
    import numpy as np

    from jmeta.report import figures

    made = {name: program(name, settings) for name in settings.algorithms.split(",")}
    for train, _ in made.values():
        train(1)
    taken: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(settings.rounds):
        for name, (train, meta_batch) in made.items():
            begun = time.perf_counter()
            train(settings.steps)
            taken[name].append((time.perf_counter() - begun) / settings.steps / meta_batch)
    shown = {}
    for name, values in taken.items():
        median, low, high = (1e3 * float(each) for each in (np.median(values), min(values), max(values)))
        print(f"{name:<20}{median:10.2f} ms a task ({low:.2f} to {high:.2f})")
        shown[PAPER_NAMES[name]] = (median, low, high)
    report = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "setting": vars(settings)}
    write_json(output / "time.json", report | {"seconds_per_task": taken})
    label = "seconds for 1,000 tasks (median, range)"
    print(f"figure in {figures.bars(shown, output / 'time.png', label=label)}")
    return 0


def collect(settings: SimpleNamespace, output: Path) -> int:
    """The seconds of whole runs against their accuracy in percent."""
    from jmeta.report import figures
    from jmeta.report.table import summary

    panels: dict[str, dict[str, tuple[float, float, float]]] = {}
    for data in OTHER_DATA:
        for shot in (1, 5):
            for algorithm in META_LEARNERS:
                workdir = Path(settings.results) / f"table3_1_{data}_{shot}shot_{algorithm}"
                if not is_finished(workdir):
                    continue
                if not (workdir / "seconds.json").is_file():
                    raise UsageError(f"{workdir} has no seconds.json; play it by experiments.benchmarks.rows")
                accuracy = summary(json.loads((workdir / "results.json").read_text()), "accuracy")
                point = (seconds(workdir), accuracy["mean"] or 0.0, accuracy["ci95"] or 0.0)
                panels.setdefault(f"{data} {shot}-shot", {})[PAPER_NAMES[algorithm]] = point
                print(f"{workdir.name:<52}{point[0]:10.0f} s{point[1]:8.2f} +- {point[2]:.2f} %")
    if not panels:
        raise UsageError(
            f"--results={settings.results}: no finished table3_1_* in it; give the --output of rows"
        )
    write_json(output / "runs.json", panels)
    labels = {"x_label": "seconds of a run", "y_label": "accuracy (%)"}
    print(f"figure in {figures.scatter(panels, output / 'runs.png', **labels)}")
    return 0


FLAGS = (
    {
        "results": Flag("string", None, "draw the finished runs in this folder instead of timing steps"),
        "algorithms": Flag("string", ",".join(META_LEARNERS), "which to time, separated by commas"),
    }
    | shared(*TASK_FLAGS, way=None, query=None, filters=None)
    | {
        "rounds": Flag("integer", 5, "timings of each meta-learner"),
        "steps": Flag("integer", 2, "training steps of a timing"),
        "output": Flag("string", "runs/learned_optimizers_time", "folder of the figure and its numbers"),
    }
)
for _name in ("query", "filters"):
    FLAGS[_name] = learned_optimizers.FLAGS[_name]
FLAGS["way"] = FLAGS["way"]._replace(help="classes of an episode [5]")


def stray(settings: SimpleNamespace) -> dict[str, str]:
    """Flags of the timing, where runs are collected."""
    timing = (*TASK_FLAGS, "algorithms", "rounds", "steps")
    return {} if settings.results is None else dict.fromkeys(timing, "--results times nothing")


EXPERIMENT = Experiment("benchmarks.learned_optimizers_time", __doc__ or "", FLAGS, {}, run, stray)

if __name__ == "__main__":
    launch(EXPERIMENT)
