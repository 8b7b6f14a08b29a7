"""Metrics per task, and their summary over tasks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jmeta.losses import masked_mean
from jmeta.types import Array, Batch, Metrics


class Summary(NamedTuple):
    """Of per-task values: `mean`, `median`, and `ci95`, the half-width of the normal 95 % interval."""

    mean: float
    median: float
    ci95: float


def accuracy(outputs: Array, batch: Batch) -> Metrics:
    """Share of the examples whose largest logit [example, way] is their label [example]: {"accuracy": []}."""
    right = (outputs.argmax(-1) == batch.y).astype(outputs.dtype)
    return {"accuracy": masked_mean(right, batch.mask)}


def squared_error(outputs: Array, batch: Batch) -> Metrics:
    """Mean squared error of a task, {"squared_error": []}."""
    from jmeta.losses import mean_squared_error

    return {"squared_error": mean_squared_error(outputs, batch)}


def summarise(values: Array) -> Summary:
    """Mean, median and 95 % interval of per-task values [task].

    ci95 = 1.96 s / sqrt(tasks) with the sample deviation s, as the few-shot literature reports it
    (Finn et al. 2017; COMLN Table 2). Raises ValueError for fewer than two tasks.
    """
    tasks = np.asarray(values, np.float64)
    if tasks.ndim != 1 or tasks.size < 2:
        raise ValueError(f"summarise: values of shape {tasks.shape}; expected [task] with at least 2 tasks")
    deviation = tasks.std(ddof=1)
    return Summary(
        float(tasks.mean()), float(np.median(tasks)), float(1.96 * deviation / np.sqrt(tasks.size))
    )
