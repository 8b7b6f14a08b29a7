"""Running time of the learned optimizers beside MAML (Huisman et al. 2022, Figure 3.4).

Without --results: the training step of each meta-learner, one seed, in the paper's settings for --shot (inner
steps, meta-batch, query set, network; see learned_optimizers' presets of Table 3.1), on the data set of the
flags; the programs take turns. Prints milliseconds a task and draws the median of the seconds for 1,000
tasks, with the least and the greatest of the rounds as whiskers.

With --results=FOLDER: as in the paper, the time of whole runs (start-up, training, validations and test; of
several seeds side by side, all of them together) against their accuracy, a panel for each data set and shot.
FOLDER is the --output of experiments.reproduce --table=turtle/3.1; rows that are not finished are left out.
The paper's runs are of one seed each and also test on CUB.

python -m experiments.benchmarks.learned_optimizers_time [--dataset=glyphs] [--shot=1] [--output=runs/time]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import flags, learned_optimizers
from experiments.benchmarks.timing import time_in_turns, write_report
from experiments.cli import launch, parse
from experiments.errors import UsageError
from experiments.flags import Flag, OnlyIf
from experiments.parts import Parts
from experiments.presets.turtle import META_LEARNERS, METHODS, OTHER_DATA
from experiments.rows import seconds
from experiments.settings import Experiment, Settings
from experiments.workdir import is_finished, write_json
from jmeta.data.episodes import sample_tasks
from jmeta.outer.load import build_learner
from jmeta.report import figures
from jmeta.report.table import metric_summary

TASK_FLAGS = ("dataset", "data_dir", "image_size", "way", "shot", "query", "filters")


def main(settings: Settings) -> int:
    """Time training steps, or collect whole runs; print and draw."""
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    if settings.results is not None:
        return collect(Path(settings.results), output)
    task = settings.take(*TASK_FLAGS)
    arguments = [f"--{name}={value}" for name, value in task.items() if value is not None]
    taken = time_steps(settings.algorithms.split(","), arguments, settings.steps, settings.rounds)
    bars = {}
    for name, values in taken.items():
        median, low, high = (1e3 * float(each) for each in (np.median(values), min(values), max(values)))
        print(f"{name:<20}{median:10.2f} ms a task ({low:.2f} to {high:.2f})")
        bars[METHODS[name]] = (median, low, high)
    write_report(output / "time.json", setting=dict(settings), seconds_per_task=taken)
    label = "seconds for 1,000 tasks (median, range)"
    print(f"figure in {figures.bars(bars, output / 'time.png', label=label)}")
    return 0


def time_steps(
    algorithms: Sequence[str], arguments: Sequence[str], steps: int, rounds: int
) -> dict[str, list[float]]:
    """Time so many training steps of each algorithm in turns: seconds a task, [round]."""
    programs, meta_batches = {}, {}
    for name in algorithms:
        train, meta_batches[name] = training(name, arguments)
        programs[name] = partial(train, steps)
    times = time_in_turns(programs, rounds)
    return {name: [time / steps / meta_batches[name] for time in times[name]] for name in algorithms}


def training(algorithm: str, arguments: Sequence[str]) -> tuple[Callable[[int], Any], int]:
    """Return a function that takes so many training steps of an algorithm, and the tasks of a step."""
    parts = Parts(parse(learned_optimizers.EXPERIMENT, ["", f"--algorithm={algorithm}", *arguments]))
    waves = learned_optimizers.WAVES if parts.settings.dataset == "sinusoid" else {}
    sampler = parts.episodes(parts.dataset(), **waves)["train"]
    _, learner = build_learner(learned_optimizers.compose_learner(parts, None))
    meta_batch, key = parts.settings.meta_batch, jax.random.key(0)
    task = jax.jit(lambda sampler: sampler(key))(sampler)
    state = jax.jit(lambda: learner.init(key, task))()

    @jax.jit
    def train(state: Any, sampler: Any, count: Any) -> Any:
        def step(_: Any, state: Any) -> Any:
            return learner.step(state, sample_tasks(sampler, key, state.step, meta_batch))[0]

        return jax.lax.fori_loop(0, count, step, state)

    return lambda count: train(state, sampler, count).meta, meta_batch


def collect(results: Path, output: Path) -> int:
    """Draw the seconds of whole runs against their accuracy in percent."""
    panels: dict[str, dict[str, tuple[float, float, float]]] = {}
    for data in OTHER_DATA:
        for shot in (1, 5):
            for algorithm in META_LEARNERS:
                workdir = results / f"table3_1_{data}_{shot}shot_{algorithm}"
                if not is_finished(workdir):
                    continue
                if not (workdir / "seconds.json").is_file():
                    raise UsageError(f"{workdir} has no seconds.json; run it by experiments.reproduce")
                accuracy = metric_summary(json.loads((workdir / "results.json").read_text()), "accuracy")
                point = (seconds(workdir), accuracy["mean"] or 0.0, accuracy["ci95"] or 0.0)
                panels.setdefault(f"{data} {shot}-shot", {})[METHODS[algorithm]] = point
                print(f"{workdir.name:<52}{point[0]:10.0f} s{point[1]:8.2f} +- {point[2]:.2f} %")
    if not panels:
        raise UsageError(
            f"--results={results}: no finished table3_1_* in it; give the --output of experiments.reproduce"
        )
    write_json(output / "runs.json", panels)
    labels = {"x_label": "seconds of a run", "y_label": "accuracy (%)"}
    print(f"figure in {figures.scatter(panels, output / 'runs.png', **labels)}")
    return 0


_TIMING = (OnlyIf("results", (None,), "--results times nothing"),)
_OF_EXPERIMENT = learned_optimizers.EXPERIMENT.flags
FLAGS = {
    "results": Flag("string", None, "draw the finished runs in this folder instead of timing steps"),
    "algorithms": Flag("string", ",".join(META_LEARNERS), "which to time, separated by commas", when=_TIMING),
    **flags.pick(
        *TASK_FLAGS,
        defaults=dict.fromkeys(("way", "query", "filters")),
        helps={name: _OF_EXPERIMENT[name].help for name in ("query", "filters")}
        | {"way": "classes of an episode [5]"},
        when=dict.fromkeys(TASK_FLAGS, _TIMING),
    ),
    "rounds": Flag("integer", 5, "timings of each meta-learner", least=1, when=_TIMING),
    "steps": Flag("integer", 2, "training steps of a timing", least=1, when=_TIMING),
    "output": Flag("string", "runs/learned_optimizers_time", "folder of the figure and its numbers"),
}
EXPERIMENT = Experiment("benchmarks.learned_optimizers_time", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
