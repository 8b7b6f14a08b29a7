"""Two runs on the same test tasks: the difference of their metrics, task by task."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jmeta.metrics import Summary, summarise
from jmeta.report.table import markdown_table, plus_minus

# What decides which tasks a run is tested on: flags, and facts of the data that were loaded. Test tasks have
# no rotations; where there is a --test_query, --query is of the training tasks.
_FLAGS = ("dataset", "way", "shot", "query", "presentations", "subtasks", "subtask_shot", "slots")
_FACTS = ("split", "shape", "classes")

# What means the same whatever the algorithm: a loss may have terms of its own.
_OF_ANY_ALGORITHM = ("accuracy", "squared_error")


class Differences(NamedTuple):
    """Over how many test `tasks`, and the summary of each metric's differences."""

    tasks: int
    metrics: dict[str, Summary]


class _Tested(NamedTuple):
    """Of a run: what decided its test `tasks`, its `algorithm`, and its metrics on the tasks, [task]."""

    tasks: dict[str, Any]
    algorithm: str | None
    values: dict[str, np.ndarray]


def differences(workdir: str | os.PathLike[str], against: str | os.PathLike[str]) -> Differences:
    """Of each metric that two finished runs have: the first run's less the second's, over the test tasks.

    The runs are tested on the same tasks, so that the interval of the tasks' differences is far narrower than
    the two intervals suggest; where one has more of them, those that both have count. Of supervised runs a
    task is a batch of test images. Of seeds side by side each task counts with the mean over seeds;
    accuracies are in percent. Of two algorithms accuracies and squared errors are subtracted, but no losses.
    Raises ValueError for a run that is not finished or has no test tasks, and for runs that were tested on
    different ones.
    """
    ours, theirs = _tested(Path(workdir)), _tested(Path(against))
    for name, value in ours.tasks.items():
        if value != theirs.tasks[name]:
            here, there = (textwrap.shorten(str(tasks[name]), 60) for tasks in (ours.tasks, theirs.tasks))
            raise ValueError(f"tested on other tasks, with {name} {here} instead of {there}")
    tasks = min(len(value) for run in (ours, theirs) for value in run.values.values())
    found = {}
    for name in [name for name in ours.values if name in theirs.values]:
        if ours.algorithm == theirs.algorithm or name.startswith(_OF_ANY_ALGORITHM):
            scale = 100.0 if name.startswith("accuracy") else 1.0
            found[name] = summarise(scale * (ours.values[name][:tasks] - theirs.values[name][:tasks]))
    return Differences(tasks, found)


def differences_table(workdirs: Iterable[str | os.PathLike[str]], against: str | os.PathLike[str]) -> str:
    """The `differences` of runs to one of them as Markdown, a column for each run; those of which there are
    none are named below, with the reason. Raises ValueError where `against` itself has no test tasks."""
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
        "Mean ± 95 % interval of the differences on the same test tasks, of supervised runs test batches "
        "(accuracies: in percent). The interval is over the test tasks alone: it leaves out how much runs "
        "differ from one training seed to another.",
        markdown_table(["metric", *columns], rows) if columns else "",
        "\n".join(without),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _cell(summary: Summary | None) -> str:
    return "" if summary is None else plus_minus(summary.mean, summary.ci95, "+")


def _tested(workdir: Path) -> _Tested:
    try:
        config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
        identity, flags, facts = config["identity"], config["flags"], config.get("dataset", {})
        with np.load(workdir / "eval.npz") as arrays:
            values = {name: np.asarray(arrays[name], np.float64) for name in arrays}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError("not finished: no config.json and eval.npz that can be read") from error
    if "eval_tasks" not in flags:
        raise ValueError("not tested on tasks of its own, but on its stream")
    # One's own data are named by their folder, which is then part of the identity.
    tasks = {name: flags.get(name) for name in _FLAGS} | {"data_dir": identity.get("data_dir")}
    tasks["query"] = flags.get("test_query", flags.get("query"))
    tasks |= {name: facts.get(name) for name in _FACTS}
    tasks["classes"] = (facts.get("classes") or {}).get("test")
    means = {name: value.mean(1) if value.ndim == 2 else value for name, value in values.items()}
    return _Tested(tasks, flags.get("algorithm", identity.get("experiment")), means)
