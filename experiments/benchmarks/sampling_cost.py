"""What sampling inside the training step costs: COMLN's step that draws its tasks against one on fixed tasks.

Both run ten steps in one program; they take turns, and the ratio is the median over the rounds. Data have the
size of Omniglot's background set, turned by 90 degrees (5-way 1-shot by default).

python -m experiments.benchmarks.sampling_cost [--filters=64] [--rounds=9] [--output=sampling_cost.json]
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.common import Experiment, Flag, launch, shared, write_json

STEPS = 10


def programs(settings: SimpleNamespace) -> dict[str, Any]:
    """Compiled programs of ten steps with sampling and on fixed tasks, each a function without arguments."""
    import jax

    import jmeta
    from experiments.benchmarks.sampler import images
    from jmeta.data.episodes import sample_tasks

    numbers = {"way": settings.way, "shot": settings.shot, "query": settings.query}
    sampler = jmeta.episodes(images("omniglot"), rotations=True, **numbers)
    adapter = jmeta.comln(jmeta.conv4(filters=settings.filters), settings.way)
    made = jmeta.learner(adapter, jmeta.cross_entropy, jmeta.optimiser("sgd", 0.01), metrics=jmeta.accuracy)
    key = jax.random.key(0)
    tasks = jax.jit(lambda sampler: sample_tasks(sampler, key, 0, settings.meta_batch))(sampler)
    state = jax.jit(made.init)(key, tasks.support.x[0])

    @jax.jit
    def sampled(state: Any, sampler: Any) -> Any:
        def step(_: Any, state: Any) -> Any:
            return made.step(state, sample_tasks(sampler, key, state.step, settings.meta_batch))[0]

        return jax.lax.fori_loop(0, STEPS, step, state)

    @jax.jit
    def fixed(state: Any, tasks: Any) -> Any:
        return jax.lax.fori_loop(0, STEPS, lambda _, state: made.step(state, tasks)[0], state)

    return {
        "sampled": lambda: jax.block_until_ready(sampled(state, sampler).meta),
        "fixed": lambda: jax.block_until_ready(fixed(state, tasks).meta),
    }


def run(settings: SimpleNamespace) -> int:
    """Time both programs in turns and print the ratio."""
    import jax
    import numpy as np

    made = programs(settings)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(settings.rounds + 1):  # the first compiles
        for name, program in made.items():
            begun = time.perf_counter()
            program()
            if turn:
                seconds[name].append((time.perf_counter() - begun) / STEPS)
    sampled, fixed = np.array(seconds["sampled"]), np.array(seconds["fixed"])
    result = {
        "sampled_ms": 1e3 * float(np.median(sampled)),
        "fixed_ms": 1e3 * float(np.median(fixed)),
        "ratio_of_medians": float(np.median(sampled) / np.median(fixed)),
        "ratio_of_fastest": float(sampled.min() / fixed.min()),
    }
    for name, value in result.items():
        print(f"{name:18} {value:8.3f}")
    if settings.output:
        device = jax.devices()[0].device_kind
        write_json(Path(settings.output), {"device": device, "jax": jax.__version__, **result})
    return 0


FLAGS = shared("way", "shot", "query", "meta_batch", "filters", query=5) | {
    "rounds": Flag("integer", 9, "timings of each program"),
    "output": Flag("string", None, "JSON file to write"),
}
EXPERIMENT = Experiment("benchmarks.sampling_cost", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
