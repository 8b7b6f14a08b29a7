"""Losses on a batch, all of which respect its mask and the ways that are absent from its task."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jmeta.types import Array, Batch, PyTree, Stream

ABSENT = -1e9  # the logit of a way that is absent from the task


def masked_mean(values: Array, mask: Array | None) -> Array:
    """Average `values` [example] over the examples whose `mask` [example] is 1, or over all if it is None.

    The mean of no examples is 0.
    """
    if mask is None:
        return values.mean()
    weights = mask.astype(values.dtype)
    return (jnp.where(weights > 0, values, 0) * weights).sum() / jnp.maximum(weights.sum(), 1)


def present_ways(labels: Array, way: int, mask: Array | None) -> Array:
    """Find the ways with a real example: booleans [way] from integer labels [example].

    If `mask` is None every way is present, so that fixed-size episodes cost nothing.
    """
    if mask is None:
        return jnp.ones(way, bool)
    return (jax.nn.one_hot(labels, way, dtype=bool) & (mask > 0)[:, None]).any(0)


def padded_ways(support: Batch, outputs: Callable[[], PyTree]) -> Array | None:
    """Find the ways [way] of a padded support set; None if nothing is padded, or nothing is classified.

    `outputs()` computes outputs [example, way] for some examples, of which only the shape is used.
    """
    labels = getattr(support.y, "ndim", None) == 1 and jnp.issubdtype(support.y.dtype, jnp.integer)
    if support.mask is None or not labels:
        return None
    shape = jax.eval_shape(outputs)
    return present_ways(support.y, shape.shape[-1], support.mask) if shape.ndim == 2 else None


def mask_absent_ways(logits: Array, present: Array) -> Array:
    """Take absent ways (`present` [way] false) out of every softmax of logits [..., way]."""
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


def cross_entropy(outputs: Array, batch: Batch, *, smoothing: float = 0.0) -> Array:
    """Compute the mean cross-entropy of logits [example, way] and integer labels [example], in nats.

    `smoothing` spreads that share of a label over the ways of the task. Raises ValueError if the shapes do
    not fit.
    """
    if outputs.ndim != 2 or batch.y.shape != outputs.shape[:1]:
        raise ValueError(
            f"cross_entropy: logits {outputs.shape} and labels {batch.y.shape} do not fit; expected "
            "[example, way] and integer labels [example]"
        )
    log_p = jax.nn.log_softmax(outputs)
    if not smoothing:
        log_p = jnp.take_along_axis(log_p, batch.y[:, None], axis=1)[:, 0]  # [example]
        return masked_mean(-log_p, batch.mask)
    # Absent ways carry the same logit in every row of a task.
    target = smooth_labels(batch.y, outputs[0] > ABSENT / 2, smoothing, outputs.dtype)
    return masked_mean(-(target * jnp.where(target > 0, log_p, 0)).sum(-1), batch.mask)


def summed_cross_entropy(outputs: Array, stream: Stream) -> Array:
    """Sum over time the cross-entropy of logits [time, way] and the labels `y` [time] of a stream, in nats.

    Source: Babu et al. 2021, section 3.4.
    """
    log_p = jnp.take_along_axis(jax.nn.log_softmax(outputs), stream.y[:, None], axis=1)[:, 0]  # [time]
    return -log_p.sum() if stream.mask is None else -jnp.where(stream.mask > 0, log_p, 0).sum()


def mean_squared_error(outputs: Array, batch: Batch) -> Array:
    """Compute the mean squared error of outputs [example, ...] and targets of the same shape.

    Raises ValueError if the shapes differ.
    """
    if outputs.shape != batch.y.shape:
        raise ValueError(
            f"mean_squared_error: outputs {outputs.shape} and targets {batch.y.shape} differ; "
            "give targets the shape of the network's outputs"
        )
    squared = jnp.square(outputs - batch.y)
    return masked_mean(squared.reshape(squared.shape[0], -1).mean(1), batch.mask)
