"""The figures of a run: its curves, accuracies by shot and by subtask, and one episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jmeta.metrics import summarize
from jmeta.outer.episode import predict
from jmeta.report import continual_figures, figures
from jmeta.types import Adapter, LearnerState, Task


def draw_run(folder: Path, lines: Sequence[Mapping[str, Any]], values: Mapping[str, np.ndarray]) -> None:
    """Draw the curves of a log's `lines`, and test accuracies `values` {metric: [task, ...]} by shot and by
    subtask, if there are such."""
    if lines:
        figures.learning_curves(lines, folder / "learning_curves.png")
    if any("horizon" in line for line in lines):
        figures.horizon_curve(lines, folder / "horizon.png")
    for file, before, after, label in (
        ("accuracy_by_shot.png", "", "_shot", "earlier presentations"),
        ("accuracy_by_subtask.png", "subtask_", "", "subtask"),
    ):
        points = _accuracy_by(values, before, after)
        if points:
            curves = {"test": {"accuracy": points}}
            figures.sweep(curves, folder / file, x_label=label, y_label="accuracy (%)")


def draw_stream(
    folder: Path,
    lines: Sequence[Mapping[str, Any]],
    values: Mapping[str, np.ndarray],
    domains: Sequence[str] = (),
) -> None:
    """Draw the curves and the sparsity of a log's `lines`; of `values` the accuracy matrix [seed, after, on],
    or the accuracy and the domain [seed, step], an index into `domains`, if there are such."""
    figures.learning_curves(lines, folder / "learning_curves.png", against="batches seen")
    if any("sparsity" in line for line in lines):
        continual_figures.sparsity_curves(lines, folder / "sparsity.png")
    if "accuracy_matrix" in values:
        matrix = values["accuracy_matrix"].mean(0)
        continual_figures.accuracy_heatmap(matrix, folder / "accuracy_matrix.png")
    if "domain" in values:
        continual_figures.accuracy_over_stream(
            values["accuracy"], values["domain"], domains, folder / "accuracy.png"
        )


def draw_episode(folder: Path, adapter: Any, state: LearnerState, task: Task) -> None:
    """Draw a task of images with the classes that a trained adapter predicts."""
    if isinstance(adapter, Adapter) and isinstance(task, Task) and task.query.x.ndim == 4:
        outputs = predict(adapter, state, task.support, task.query.x)
        figures.episode(
            task.support.x, task.support.y, task.query.x, task.query.y, np.asarray(outputs.argmax(-1)),
            folder / "episode.png",
        )  # fmt: skip


def _accuracy_by(
    values: Mapping[str, np.ndarray], before: str, after: str
) -> list[tuple[float, float, float]]:
    """List (number, mean, interval) in percent of the metrics accuracy_<before><number><after>."""
    points = []
    for name, value in values.items():
        number = name.removeprefix(f"accuracy_{before}").removesuffix(after)
        if name == f"accuracy_{before}{number}{after}" and number.isdecimal():
            summary = summarize(100 * value.reshape(len(value), -1).mean(1))
            points.append((float(number), summary.mean, summary.ci95))
    return points
