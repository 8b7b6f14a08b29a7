"""Figures that compare learners of continual few-shot tasks: by a task's length, and by subtask."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from jmeta.metrics import summarize
from jmeta.report.figures import Record, sweep
from jmeta.report.table import StoredRun

_Point = tuple[float, float, float]
_SUBTASK = "accuracy_subtask_"


def accuracy_against_length(
    runs: Sequence[StoredRun], names: Sequence[str], path: str | os.PathLike[str]
) -> Path:
    """Draw query accuracy against the number of subtasks (Babu et al. 2021, Figure 3).

    Args:
      runs: finished runs with the metrics "accuracy" and "accuracy_subtask_<number>".
      names: the legend entry of each run (see `jmeta.report.words.distinguishing_names`); runs of one name
        are one line, and those of one name and length are seeds of one setting.
      path: the file to write.

    The band is the 95 % interval over the test tasks, or over the runs if several have one name and length.
    """
    curves: dict[str, list[_Point]] = {}
    for name, run in zip(names, runs):
        point = _point(_length(run), run.results["eval"]["metrics"]["accuracy"])
        curves.setdefault(name, []).append(point)
    panels = {"accuracy on all subtasks": {name: _merged(curve) for name, curve in curves.items()}}
    return sweep(panels, path, x_label="subtasks", y_label="accuracy (%)", bounds=(0, 100))


def accuracy_against_subtask(
    runs: Sequence[StoredRun], names: Sequence[str], path: str | os.PathLike[str]
) -> Path:
    """Draw query accuracy against the subtask's position, a panel for each length (Babu et al. 2021, Figure
    4); the arguments are those of `accuracy_against_length`."""
    panels: dict[int, dict[str, list[_Point]]] = {}
    for name, run in zip(names, runs):
        length, metrics = _length(run), run.results["eval"]["metrics"]
        curve = panels.setdefault(length, {}).setdefault(name, [])
        curve += [_point(number, metrics[f"{_SUBTASK}{number}"]) for number in range(1, length + 1)]
    titled = {
        f"{length} subtasks": {name: _merged(curve) for name, curve in panels[length].items()}
        for length in sorted(panels)
    }
    return sweep(titled, path, x_label="subtask", y_label="accuracy (%)", bounds=(0, 100))


def _length(run: StoredRun) -> int:
    """Count the subtasks of a run's tasks by its metrics."""
    return sum(name.startswith(_SUBTASK) for name in run.results["eval"]["metrics"])


def _point(x: int, summary: Record) -> _Point:
    return float(x), 100 * summary["mean"], 100 * summary["ci95"]


def _merged(points: Sequence[_Point]) -> list[_Point]:
    """Merge points of several runs at one place into their mean and its interval over the runs."""
    merged = []
    for x in sorted({point[0] for point in points}):
        here = [point for point in points if point[0] == x]
        over_runs = summarize(jnp.asarray([value for _, value, _ in here])) if len(here) > 1 else None
        merged.append((x, over_runs.mean, over_runs.ci95) if over_runs else here[0])
    return merged
