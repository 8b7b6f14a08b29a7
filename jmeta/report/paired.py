"""Two runs on the same test tasks: the difference of their metrics, task by task."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jmeta.metrics import Summary, summarize
from jmeta.outer.files import read_plain
from jmeta.report.table import markdown_table, plus_minus
from jmeta.report.units import unit_of

# Metrics that mean the same for all algorithms: a loss may have terms of its own.
_OF_ANY_ALGORITHM = ("accuracy", "squared_error")


class Differences(NamedTuple):
    """The number of test `tasks`, and the summary of each metric's differences over them."""

    tasks: int
    metrics: dict[str, Summary]


class _Tested(NamedTuple):
    """A tested run: the facts that decide its test `tasks`, its `algorithm`, and its metrics on the tasks,
    [task]."""

    tasks: dict[str, Any]
    algorithm: str | None
    values: dict[str, np.ndarray]


def differences(workdir: str | os.PathLike[str], against: str | os.PathLike[str]) -> Differences:
    """Subtract the metrics of the run `against` from those of the run `workdir`, test task by test task.

    Both runs are tested on the same tasks, so that the interval of the tasks' differences is far narrower
    than the two intervals suggest; if one run has more tasks, those of both count. A task of a supervised run
    is a batch of test images. If a run has several seeds, each task counts with the mean over seeds.
    Accuracies are in percent. The losses of different algorithms are not subtracted, only accuracies and
    squared errors. Raises ValueError for a run that is not finished or has no test tasks, and for runs that
    were tested on different ones.
    """
    ours, theirs = _tested(Path(workdir)), _tested(Path(against))
    for name in ours.tasks | theirs.tasks:
        here, there = ours.tasks.get(name), theirs.tasks.get(name)
        if here != there:
            short = [textwrap.shorten(str(value), 60) for value in (here, there)]
            raise ValueError(f"tested on other tasks, with {name} {short[0]} instead of {short[1]}")
    tasks = min(len(value) for run in (ours, theirs) for value in run.values.values())
    summaries = {}
    for name in [name for name in ours.values if name in theirs.values]:
        if ours.algorithm == theirs.algorithm or name.startswith(_OF_ANY_ALGORITHM):
            scale = 100.0 if unit_of(name) == "fraction" else 1.0
            summaries[name] = summarize(scale * (ours.values[name][:tasks] - theirs.values[name][:tasks]))
    return Differences(tasks, summaries)


def differences_table(workdirs: Iterable[str | os.PathLike[str]], against: str | os.PathLike[str]) -> str:
    """Format the `differences` of runs to one of them as Markdown, a column for each run.

    Runs that cannot be compared are listed below, with the reason. Raises ValueError if `against` itself has
    no test tasks.
    """
    _tested(Path(against))
    columns: dict[str, Differences] = {}
    without = []
    for workdir in workdirs:
        if Path(workdir).resolve() == Path(against).resolve():
            continue
        try:
            columns[f"`{workdir}`"] = differences(workdir, against)
        except ValueError as error:
            without.append(f"- `{workdir}`: {error}")
    names = dict.fromkeys(name for column in columns.values() for name in column.metrics)
    rows = [["test tasks", *(column.tasks for column in columns.values())]]
    rows += [[name, *(_cell(column.metrics.get(name)) for column in columns.values())] for name in names]
    parts = [
        f"## Difference to `{against}`",
        "Mean ± 95 % interval of the differences on the same test tasks, or test batches of supervised runs "
        "(accuracies: in percent). The interval is over the test tasks alone: it does not include the "
        "differences from one training seed to another.",
        markdown_table(["metric", *columns], rows) if columns else "",
        "\n".join(without) if without or columns else "There is no other run.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _cell(summary: Summary | None) -> str:
    return "" if summary is None else plus_minus(summary.mean, summary.ci95, "+")


def _tested(workdir: Path) -> _Tested:
    try:
        config = json.loads(read_plain(workdir / "config.json"))
        algorithm = json.loads(read_plain(workdir / "results.json"))["algorithm"]
        with np.load(workdir / "eval.npz") as arrays:
            values = {name: np.asarray(arrays[name], np.float64) for name in arrays}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError("not finished: no readable config.json, results.json and eval.npz") from error
    if "tasks" not in config:
        raise ValueError("does not say on which tasks it was tested; run it again")
    if config["tasks"] is None:
        raise ValueError("not tested on tasks of its own, but on its stream")
    means = {name: value.mean(1) if value.ndim == 2 else value for name, value in values.items()}
    return _Tested(config["tasks"], algorithm, means)
