"""Metrics per task, and their summary over tasks."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jmeta.losses import masked_mean, mean_squared_error
from jmeta.types import Array, Batch, Metrics, Stream


class Summary(NamedTuple):
    """Summary of per-task values; `ci95` is the half-width of the normal 95 % interval of the mean."""

    mean: float
    median: float
    ci95: float


def accuracy(outputs: Array, batch: Batch | Stream) -> Metrics:
    """Compute the share of examples whose largest logit [example, way] is their label: {"accuracy": []}."""
    right = (outputs.argmax(-1) == batch.y).astype(outputs.dtype)
    return {"accuracy": masked_mean(right, batch.mask)}


def accuracy_by_shot(outputs: Array, stream: Stream, *, shots: int) -> Metrics:
    """Compute the accuracy of logits [time, way] on a stream by the number of earlier presentations.

    {"accuracy_0_shot": [], ..., "accuracy_<shots>_shot": []}: k-shot accuracy is that on the (k+1)-th
    presentation of a class, whether or not its labels have arrived (Santoro et al. 2016; Babu et al. 2021).
    NaN if no class of the stream is presented so often.
    """
    right = (outputs.argmax(-1) == stream.y).astype(outputs.dtype)
    real = jnp.ones_like(right) if stream.mask is None else stream.mask.astype(right.dtype)
    # [time, time] true for earlier examples of the same class, then their number [time]
    before = jnp.tril(stream.y[None, :] == stream.y[:, None], -1) @ real
    return {
        f"accuracy_{shot}_shot": _mean_or_nan(right, real * (before == shot)) for shot in range(shots + 1)
    }


def accuracy_by_subtask(outputs: Array, query: Batch, *, subtasks: int) -> Metrics:
    """Compute the accuracy of logits [example, way] on the query set of a continual task, by subtask.

    The examples are grouped by subtask, each of one class, in the subtasks' order, as
    `jmeta.continual_few_shot` draws them. {"accuracy_subtask_1": [], ..., "accuracy_subtask_<subtasks>": []},
    NaN if a task is shorter; and "accuracy_before_last", over all subtasks but the last (Babu et al. 2021,
    Figure 4).
    """
    changes = jnp.concatenate([jnp.ones(1, bool), query.y[1:] != query.y[:-1]])
    position = jnp.cumsum(changes)
    right = (outputs.argmax(-1) == query.y).astype(outputs.dtype)
    real = jnp.ones_like(right) if query.mask is None else query.mask.astype(right.dtype)
    by_position = {
        f"accuracy_subtask_{number}": _mean_or_nan(right, real * (position == number))
        for number in range(1, subtasks + 1)
    }
    return by_position | {"accuracy_before_last": masked_mean(right, real * (position < position[-1]))}


def accuracy_and_by_subtask(outputs: Array, query: Batch, *, subtasks: int) -> Metrics:
    """Compute `accuracy` and `accuracy_by_subtask` of logits [example, way] on a query set."""
    return accuracy(outputs, query) | accuracy_by_subtask(outputs, query, subtasks=subtasks)


def _mean_or_nan(values: Array, weights: Array) -> Array:
    return jnp.where(weights.any(), masked_mean(values, weights), jnp.nan)


def squared_error(outputs: Array, batch: Batch) -> Metrics:
    """Compute the mean squared error of a task, {"squared_error": []}."""
    return {"squared_error": mean_squared_error(outputs, batch)}


def summarize(values: Array) -> Summary:
    """Compute mean, median and 95 % interval of per-task values [task].

    ci95 = 1.96 s / sqrt(tasks) with the sample deviation s, as the few-shot literature reports it
    (Finn et al. 2017; COMLN Table 2). Raises ValueError for fewer than two tasks.
    """
    tasks = np.asarray(values, np.float64)
    if tasks.ndim != 1 or tasks.size < 2:
        raise ValueError(f"summarize: values of shape {tasks.shape}; expected [task] with at least 2 tasks")
    deviation = tasks.std(ddof=1)
    return Summary(
        float(tasks.mean()), float(np.median(tasks)), float(1.96 * deviation / np.sqrt(tasks.size))
    )
