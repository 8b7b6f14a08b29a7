"""The cost of sampling inside the training step: COMLN's step that draws its tasks, against fixed tasks.

Both run ten steps in one program; they take turns, and the ratio is the median over the rounds. Data have the
size of Omniglot's background set, turned by 90 degrees (5-way 1-shot by default).

python -m experiments.benchmarks.sampling_cost [--filters=64] [--rounds=9] [--output=sampling_cost.json]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jmeta
from experiments import flags
from experiments.benchmarks.sampler import random_images
from experiments.benchmarks.timing import OUTPUT, time_in_turns, write_report
from experiments.cli import launch
from experiments.flags import Flag
from experiments.settings import Experiment, Settings
from jmeta.data.episodes import sample_tasks
from jmeta.data.source import Sampler
from jmeta.types import Learner

STEPS = 10


def main(settings: Settings) -> int:
    """Time both programs in turns and print the ratio."""
    numbers = settings.take("way", "shot", "query")
    sampler = jmeta.episodes(random_images("omniglot"), rotations=True, **numbers)
    adapter = jmeta.comln(jmeta.conv4(filters=settings.filters), settings.way)
    tx = jmeta.optimizer("sgd", 0.01)
    learner = jmeta.learner(adapter, jmeta.cross_entropy, tx, metrics=jmeta.accuracy)
    seconds = time_in_turns(programs(learner, sampler, settings.meta_batch), settings.rounds)
    sampled, fixed = (np.array(seconds[name]) / STEPS for name in ("sampled", "fixed"))
    result = {
        "sampled_ms": 1e3 * float(np.median(sampled)),
        "fixed_ms": 1e3 * float(np.median(fixed)),
        "ratio_of_medians": float(np.median(sampled) / np.median(fixed)),
        "ratio_of_fastest": float(sampled.min() / fixed.min()),
    }
    for name, value in result.items():
        print(f"{name:18} {value:8.3f}")
    write_report(settings.output, **result)
    return 0


def programs(learner: Learner, sampler: Sampler, meta_batch: int) -> dict[str, Callable[[], Any]]:
    """Make the programs of ten steps with sampling and on fixed tasks, as functions without arguments."""
    key = jax.random.key(0)
    tasks = jax.jit(lambda sampler: sample_tasks(sampler, key, 0, meta_batch))(sampler)
    state = jax.jit(learner.init)(key, tasks.support.x[0])

    @jax.jit
    def sampled(state: Any, sampler: Any) -> Any:
        def step(_: Any, state: Any) -> Any:
            return learner.step(state, sample_tasks(sampler, key, state.step, meta_batch))[0]

        return jax.lax.fori_loop(0, STEPS, step, state)

    @jax.jit
    def fixed(state: Any, tasks: Any) -> Any:
        return jax.lax.fori_loop(0, STEPS, lambda _, state: learner.step(state, tasks)[0], state)

    return {"sampled": lambda: sampled(state, sampler).meta, "fixed": lambda: fixed(state, tasks).meta}


FLAGS = flags.pick(
    *"way shot query meta_batch filters".split(),
    defaults={"query": 5},
    helps={"filters": "channels of conv4"},
) | {
    "rounds": Flag("integer", 9, "timings of each program", least=1),
    **OUTPUT,
}
EXPERIMENT = Experiment("benchmarks.sampling_cost", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
