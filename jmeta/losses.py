"""Losses on a batch, all of which respect its mask and the ways that are absent from its task.

They are computed in float32 or wider. A label outside 0..way - 1 raises ValueError if it is concrete, and
makes the loss and its gradient NaN if it is traced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.bounds import labels_factor, require_mask
from jmeta.types import Array, Batch, PyTree, Stream

ABSENT = -1e9  # the logit of a way that is absent from the task


def at_least_float32(values: Array) -> Array:
    """Widen numbers of fewer bits to float32; wider ones stay as they are."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def masked_mean(values: Array, mask: Array | None) -> Array:
    """Average `values` [example, ...] over the examples, weighted by `mask` [example]; None weighs all alike.

    Trailing axes are averaged first. The mean of no examples is 0. Raises ValueError for a mask of another
    shape than [example].
    """
    values = at_least_float32(values)
    if values.ndim > 1:
        values = values.reshape(values.shape[0], -1).mean(1)  # [example]
    if mask is None:
        return values.mean()
    require_mask(mask, values.shape[0])
    weights = mask.astype(values.dtype)
    total = weights.sum()
    return (jnp.where(weights > 0, values, 0) * weights).sum() / jnp.where(total > 0, total, 1)


def present_ways(labels: Array, way: int, mask: Array | None) -> Array:
    """Find the ways with a real example: booleans [way] from integer labels [example].

    If `mask` is None every way is present, so that fixed-size episodes cost nothing.
    """
    if mask is None:
        return jnp.ones(way, bool)
    return (jax.nn.one_hot(labels, way, dtype=bool) & (mask > 0)[:, None]).any(0)


def padded_ways(support: Batch | Stream, outputs: Callable[[], PyTree]) -> Array | None:
    """Find the ways [way] of a padded support set; None if nothing is padded, or nothing is classified.

    `outputs()` computes outputs [example, way] for some examples, of which only the shape is used.
    """
    if support.mask is None or not is_labels(support.y, 1):
        return None
    shape = jax.eval_shape(outputs)
    return present_ways(support.y, shape.shape[-1], support.mask) if _dimensions(shape) == 2 else None


def is_labels(y: Any, dimensions: int) -> bool:
    """Return True if `y` is one array of integers with that number of axes, and not a tree or None."""
    return _dimensions(y) == dimensions and jnp.issubdtype(y.dtype, jnp.integer)


def mask_absent_ways(logits: PyTree, present: Array | None) -> PyTree:
    """Take absent ways (`present` [way] false) out of every softmax of logits [..., way].

    If `present` is None, as `padded_ways` returns it, the outputs stay as they are, whatever they are.
    """
    if present is None:
        return logits
    ways = jnp.broadcast_to(present, logits.shape)
    return jnp.where(ways, logits, jnp.asarray(ABSENT, logits.dtype))


def smooth_labels(labels: Array, present: Array, smoothing: float, dtype: jnp.dtype) -> Array:
    """Smooth labels [example] into distributions [example, way], as in the released COMLN code.

    The label has 1 - `smoothing`; `smoothing` is spread evenly over the present ways (`present` [way] true).
    """
    way = present.shape[-1]
    hard = jax.nn.one_hot(labels, way, dtype=dtype)
    share = present.astype(dtype) / present.sum().astype(dtype)
    return (1 - smoothing) * hard + smoothing * jnp.broadcast_to(share, hard.shape)


def require_labels(who: str, outputs: Any, y: Any, axes: str = "example", *, dimensions: int = 1) -> None:
    """Raise ValueError unless `y` are integer labels [...] of logits [..., way], with `dimensions` axes."""
    if is_labels(y, dimensions) and _dimensions(outputs) == dimensions + 1 and y.shape == outputs.shape[:-1]:
        return
    raise ValueError(
        f"{who}: logits {_described(outputs)} and labels {_described(y)} do not fit; expected "
        f"[{axes}, way] and integer labels [{axes}]"
    )


def cross_entropy(outputs: Array, batch: Batch, *, smoothing: float = 0.0) -> Array:
    """Compute the mean cross-entropy of logits [example, way] and integer labels [example], in nats.

    `smoothing` spreads that share of a label over the ways of the task. Raises ValueError if the shapes do
    not fit, and for concrete labels out of range.
    """
    require_labels("cross_entropy", outputs, batch.y)
    factor = labels_factor("cross_entropy", batch.y, outputs.shape[-1], batch.mask)
    outputs = at_least_float32(outputs)
    log_p = jax.nn.log_softmax(outputs)
    if not smoothing:
        return masked_mean(-at_labels(log_p, batch.y), batch.mask) * factor
    # Absent ways carry the same logit in every row of a task.
    target = smooth_labels(batch.y, outputs[0] > ABSENT / 2, smoothing, outputs.dtype)
    return masked_mean(-(target * jnp.where(target > 0, log_p, 0)).sum(-1), batch.mask) * factor


def at_labels(values: Array, labels: Array) -> Array:
    """Select values [example, way] at labels [example]: [example].

    A label out of range selects some way, so that the gradient of a spoiled sum is not dropped.
    """
    return jnp.take_along_axis(values, labels[:, None], axis=1, mode="clip")[:, 0]


def summed_cross_entropy(outputs: Array, stream: Stream) -> Array:
    """Sum over time the cross-entropy of logits [time, way] and the labels `y` [time] of a stream, in nats.

    Raises ValueError if the shapes do not fit, and for concrete labels out of range.

    Source: Babu et al. 2021, section 3.4.
    """
    require_labels("summed_cross_entropy", outputs, stream.y, "time")
    factor = labels_factor("summed_cross_entropy", stream.y, outputs.shape[-1], stream.mask)
    log_p = at_labels(jax.nn.log_softmax(at_least_float32(outputs)), stream.y)  # [time]
    return -masked_sum(log_p, stream.mask) * factor


def masked_sum(values: Array, mask: Array | None) -> Array:
    """Sum `values` [example], weighted by `mask` [example]; None weighs all alike."""
    if mask is None:
        return values.sum()
    return (jnp.where(mask > 0, values, 0) * mask.astype(values.dtype)).sum()


def mean_squared_error(outputs: Array, batch: Batch) -> Array:
    """Compute the mean squared error of outputs [example, ...] and targets of the same shape.

    Raises ValueError if the shapes differ.
    """
    if _dimensions(outputs) is None or _dimensions(batch.y) is None or outputs.shape != batch.y.shape:
        raise ValueError(
            f"mean_squared_error: outputs {_described(outputs)} and targets {_described(batch.y)} differ; "
            "give targets the shape of the network's outputs"
        )
    return masked_mean(jnp.square(at_least_float32(outputs) - at_least_float32(batch.y)), batch.mask)


def _dimensions(value: Any) -> int | None:
    """Return the number of axes of an array, None of anything else."""
    return getattr(value, "ndim", None)


def _described(value: Any) -> str:
    return type(value).__name__ if _dimensions(value) is None else f"{value.dtype}{list(value.shape)}"
