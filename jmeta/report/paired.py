"""Two runs on the same test tasks: the difference of their metrics, task by task."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jmeta.metrics import Summary, summarise
from jmeta.report.table import markdown_table, plus_minus

# The settings that decide which tasks a run is tested on.
_OF_THE_TASKS = ("eval_tasks", "dataset", "split", "image_size", "rotations", "way", "shot", "query",
                 "presentations", "subtasks")  # fmt: skip


def differences(workdir: str | os.PathLike[str], against: str | os.PathLike[str]) -> dict[str, Summary]:
    """Of each metric that two finished runs have: the first run's less the second's, over the test tasks.

    The runs are tested on the same tasks, so that the interval of the tasks' differences is far narrower than
    the two intervals suggest. Of seeds side by side each task counts with the mean over seeds; accuracies are
    in percent. Raises ValueError for a run that is not finished or has no test tasks, and for runs that were
    tested on different ones.
    """
    (tasks, ours), (others, theirs) = _tested(Path(workdir)), _tested(Path(against))
    for name, value in tasks.items():
        if value != others[name]:
            raise ValueError(f"tested on other tasks, with {name} {value} instead of {others[name]}")
    found = {}
    for name in [name for name in ours if name in theirs]:
        scale = 100.0 if name.startswith("accuracy") else 1.0
        found[name] = summarise(scale * (ours[name] - theirs[name]))
    return found


def differences_table(workdirs: Iterable[str | os.PathLike[str]], against: str | os.PathLike[str]) -> str:
    """The `differences` of runs to one of them as Markdown, a column for each run; those of which there are
    none are named below, with the reason. Raises ValueError where `against` itself has no test tasks."""
    _tested(Path(against))
    columns: dict[str, dict[str, Summary]] = {}
    without = []
    for workdir in workdirs:
        if Path(workdir).resolve() == Path(against).resolve():
            continue
        try:
            columns[f"`{workdir}`"] = differences(workdir, against)
        except ValueError as error:
            without.append(f"- `{workdir}`: {error}")
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    cells = [[_cell(column.get(name)) for column in columns.values()] for name in names]
    parts = [
        f"## Difference to `{against}`",
        "Mean ± 95 % interval of the differences on the same test tasks (accuracies: in percent).",
        markdown_table(["metric", *columns], [[name, *row] for name, row in zip(names, cells)])
        if names
        else "",
        "\n".join(without),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _cell(summary: Summary | None) -> str:
    return "" if summary is None else plus_minus(summary.mean, summary.ci95, "+")


def _tested(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What decided a run's test tasks, and its metrics on them, [task]: means over its seeds."""
    try:
        identity = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["identity"]
        with np.load(workdir / "eval.npz") as arrays:
            values = {name: np.asarray(arrays[name], np.float64) for name in arrays}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError("not finished: no config.json and eval.npz that can be read") from error
    if "eval_tasks" not in identity:
        raise ValueError("not tested on tasks of its own, but on its stream")
    tasks = {name: identity.get(name) for name in _OF_THE_TASKS}
    return tasks, {name: value.mean(1) if value.ndim == 2 else value for name, value in values.items()}
