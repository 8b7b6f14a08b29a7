"""The figures of a run: its curves, accuracies by shot and by subtask, and one episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jmeta.metrics import summarize
from jmeta.outer.episode import predict
from jmeta.registry import build, parameters
from jmeta.report import continual_figures, figures
from jmeta.types import Adapter, LearnerState, Task


def draw_run(folder: Path, lines: Sequence[Mapping[str, Any]], values: Mapping[str, np.ndarray]) -> None:
    """Draw the curves of a log's `lines`, and test accuracies `values` {metric: [task, ...]} by shot and by
    subtask, if there are such."""
    if lines:
        figures.learning_curves(lines, folder / "learning_curves.png")
    if any(figures.HORIZON in line for line in lines):
        figures.horizon_curve(lines, folder / "horizon.png")
    for file, before, after, label in (
        ("accuracy_by_shot.png", "", "_shot", "earlier presentations"),
        ("accuracy_by_subtask.png", "subtask_", "", "subtask"),
    ):
        points = _accuracy_by(values, before, after)
        if points:
            curves = {"test": {"accuracy": points}}
            figures.sweep(curves, folder / file, x_label=label, y_label="accuracy (%)", bounds=(0, 100))


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
        continual_figures.accuracy_heatmap(values["accuracy_matrix"], folder / "accuracy_matrix.png")
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


def draw_regression(folder: Path, spec: Mapping[str, Any], state: LearnerState, task: Task) -> None:
    """Draw a task of one variable with the function that a trained adapter has before and after its steps.

    Drawn are the fits after 0, 1, 2, 5, 10, ... steps at test; of an adapter whose `spec` states none, the
    last alone.
    """
    if task.query.x.ndim != 2 or task.query.x.shape[1] != 1:
        return
    x = np.concatenate([task.support.x, task.query.x])
    grid = np.linspace(x.min(), x.max(), 100, dtype=np.float32)[:, None]
    curves = {
        name: (grid, predict(build(adapter), state, task.support, grid))
        for name, adapter in _by_steps(spec).items()
    }
    figures.regression_fit(
        curves, (task.support.x, task.support.y), (task.query.x, task.query.y), folder / "regression.png"
    )


def _by_steps(spec: Mapping[str, Any], kind: str = "adapter") -> dict[str, Mapping[str, Any]]:
    """List the specs of an adapter with fewer steps at test, by "before", "after 1 step", ..."""
    if "head" in spec:
        return {name: {**spec, "head": head} for name, head in _by_steps(spec["head"], "head").items()}
    last = spec.get("test_inner_steps") or spec.get("inner_steps")
    if last is None or "test_inner_steps" not in parameters(kind, spec["name"]):
        return {"after": spec}
    counts = [count for count in (0, 1, 2, 5, 10, 20, 50) if count < last] + [last]
    names = ["before" if count == 0 else f"after {count} step{'s' * (count > 1)}" for count in counts]
    return {name: {**spec, "test_inner_steps": count} for name, count in zip(names, counts)}


def read_image(path: Path) -> np.ndarray:
    """Read an image file as bytes [height, width, 3]."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


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
