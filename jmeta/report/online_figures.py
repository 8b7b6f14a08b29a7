"""Figures that set learners of continual few-shot tasks side by side: by a task's length, and by subtask."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from jmeta.metrics import summarise
from jmeta.report.figures import Record, sweep
from jmeta.report.setting import told_apart
from jmeta.report.table import Run

Point = tuple[float, float, float]


def accuracy_by_length(runs: Sequence[Run], path: str | os.PathLike[str]) -> Path:
    """Draw query accuracy against the number of subtasks, a line for each algorithm and setting (Babu et al.
    2021, Figure 3), of finished runs of experiments.online_continual.

    The band is the 95 % interval over the test tasks; over the runs, where several of a setting have the same
    length.
    """
    curves: dict[str, list[Point]] = {}
    for name, run in zip(_names(runs), runs):
        point = _point(run.flags["subtasks"], run.results["eval"]["metrics"]["accuracy"])
        curves.setdefault(name, []).append(point)
    panels = {"accuracy on all subtasks": {name: _merged(curve) for name, curve in curves.items()}}
    return sweep(panels, path, x_label="subtasks", y_label="accuracy (%)")


def accuracy_by_subtask(runs: Sequence[Run], path: str | os.PathLike[str]) -> Path:
    """Draw query accuracy against the subtask's position, a panel for each length, a line for each algorithm
    and setting (Babu et al. 2021, Figure 4); of the same runs as `accuracy_by_length`."""
    panels: dict[int, dict[str, list[Point]]] = {}
    for name, run in zip(_names(runs), runs):
        length, metrics = run.flags["subtasks"], run.results["eval"]["metrics"]
        curve = panels.setdefault(length, {}).setdefault(name, [])
        curve += [_point(number, metrics[f"accuracy_subtask_{number}"]) for number in range(1, length + 1)]
    titled = {
        f"{length} subtasks": {name: _merged(curve) for name, curve in panels[length].items()}
        for length in sorted(panels)
    }
    return sweep(titled, path, x_label="subtask", y_label="accuracy (%)")


def _names(runs: Sequence[Run]) -> list[str]:
    """What the legend calls each run; runs of one name and length are seeds of one setting."""
    algorithms, flags = [run.results["algorithm"] for run in runs], [run.flags for run in runs]
    return told_apart(algorithms, flags, besides=["subtasks"])


def _point(x: int, summary: Record) -> Point:
    return float(x), 100 * summary["mean"], 100 * summary["ci95"]


def _merged(points: Sequence[Point]) -> list[Point]:
    """The points, those of several runs at one place as their mean and its interval over the runs."""
    merged = []
    for x in sorted({point[0] for point in points}):
        here = [point for point in points if point[0] == x]
        over_runs = summarise(jnp.asarray([value for _, value, _ in here])) if len(here) > 1 else None
        merged.append((x, over_runs.mean, over_runs.ci95) if over_runs else here[0])
    return merged
