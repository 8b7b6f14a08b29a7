"""Metrics per task, and their summary over tasks."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

from jmeta.bounds import labels_factor
from jmeta.losses import at_least_float32, masked_mean, mean_squared_error, require_labels
from jmeta.types import Array, Batch, Metrics, Stream


class Summary(NamedTuple):
    """Summary of values; `ci95` is the half-width of the 95 % interval of the mean."""

    mean: float
    median: float
    ci95: float


def accuracy(outputs: Array, batch: Batch | Stream) -> Metrics:
    """Compute the share of examples whose largest logit [example, ..., way] is their label: {"accuracy": []}.

    Labels are integers [example, ...]; trailing axes, such as pixels, are averaged first. NaN if a traced
    label is outside 0..way - 1; ValueError if a concrete one is, or if the shapes do not fit.
    """
    right, factor = _right("accuracy", outputs, batch)
    return {"accuracy": masked_mean(right, batch.mask) * factor}


def accuracy_by_shot(outputs: Array, stream: Stream, *, shots: int) -> Metrics:
    """Compute the accuracy of logits [time, way] on a stream by the number of earlier presentations.

    {"accuracy_0_shot": [], ..., "accuracy_<shots>_shot": []}: k-shot accuracy is that on the (k+1)-th
    presentation of a class, whether or not its labels have arrived (Santoro et al. 2016; Babu et al. 2021).
    NaN if no class of the stream is presented so often. Labels are checked as by `accuracy`.
    """
    right, factor = _right("accuracy_by_shot", outputs, stream)
    weights = jnp.ones_like(right) if stream.mask is None else stream.mask.astype(right.dtype)
    # [time, time] true for earlier examples of the same class, then their number [time]
    same = jnp.tril(stream.y[None, :] == stream.y[:, None], -1)
    before = same @ (weights > 0).astype(right.dtype)
    return {
        f"accuracy_{shot}_shot": _mean_or_nan(right, weights * (before == shot)) * factor
        for shot in range(shots + 1)
    }


def accuracy_by_subtask(outputs: Array, query: Batch, *, subtasks: int) -> Metrics:
    """Compute the accuracy of logits [example, way] on the query set of a continual task, by subtask.

    The examples are grouped by subtask, each of one class, in the subtasks' order, as
    `jmeta.continual_few_shot` draws them. {"accuracy_subtask_1": [], ..., "accuracy_subtask_<subtasks>": []},
    NaN if a task is shorter; and "accuracy_before_last", over all subtasks but the last (Babu et al. 2021,
    Figure 4). Labels are checked as by `accuracy`.
    """
    right, factor = _right("accuracy_by_subtask", outputs, query)
    weights = jnp.ones_like(right) if query.mask is None else query.mask.astype(right.dtype)
    # Padding neither begins a subtask nor ends one.
    index = jnp.arange(query.y.shape[0], dtype=jnp.int32)
    latest = jax.lax.cummax(jnp.where(weights > 0, index, -1))  # the last real example so far [example]
    previous = jnp.concatenate([jnp.full(1, -1, jnp.int32), latest[:-1]])
    begins = (weights > 0) & ((previous < 0) | (query.y != query.y[previous]))
    position = jnp.cumsum(begins)
    means = {
        f"accuracy_subtask_{number}": _mean_or_nan(right, weights * (position == number))
        for number in range(1, subtasks + 1)
    }
    means["accuracy_before_last"] = masked_mean(right, weights * (position < position[-1]))
    return {name: value * factor for name, value in means.items()}


def accuracy_and_by_subtask(outputs: Array, query: Batch, *, subtasks: int) -> Metrics:
    """Compute `accuracy` and `accuracy_by_subtask` of logits [example, way] on a query set."""
    return accuracy(outputs, query) | accuracy_by_subtask(outputs, query, subtasks=subtasks)


def _right(who: str, outputs: Array, batch: Batch | Stream) -> tuple[Array, Array]:
    """Compare the largest logits with the labels: 0 or 1 of each, and the `labels_factor`."""
    require_labels(who, outputs, batch.y, "example, ...", dimensions=getattr(batch.y, "ndim", 1))
    right = at_least_float32((outputs.argmax(-1) == batch.y).astype(outputs.dtype))
    return right, labels_factor(who, batch.y, outputs.shape[-1], batch.mask)


def _mean_or_nan(values: Array, weights: Array) -> Array:
    return jnp.where(weights.any(), masked_mean(values, weights), jnp.nan)


def squared_error(outputs: Array, batch: Batch) -> Metrics:
    """Compute the mean squared error of a task, {"squared_error": []}."""
    return {"squared_error": mean_squared_error(outputs, batch)}


def summarize(values: Array, *, over: Literal["tasks", "seeds"] = "tasks") -> Summary:
    """Compute mean, median and 95 % interval of values [task] or [seed].

    ci95 = q s / sqrt(n) with the sample deviation s. Over tasks q is 1.96, as the few-shot literature reports
    it (Finn et al. 2017; COMLN Table 2); over fewer than 30 seeds it is Student's, with n - 1 degrees of
    freedom. Raises ValueError for fewer than two values.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or numbers.size < 2:
        raise ValueError(
            f"summarize: values of shape {numbers.shape}; expected [{over.removesuffix('s')}] with at least "
            f"2 {over}"
        )
    few = over == "seeds" and numbers.size < 30
    quantile = float(stdtrit(numbers.size - 1, 0.975)) if few else 1.96
    interval = quantile * numbers.std(ddof=1) / np.sqrt(numbers.size)
    return Summary(float(numbers.mean()), float(np.median(numbers)), float(interval))
