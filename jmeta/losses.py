"""Losses on a batch: every one honours the batch's mask and ways that a task does not have."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jmeta.types import Array, Batch, Stream

ABSENT = -1e9  # the logit of a way that the task does not have


def masked_mean(values: Array, mask: Array | None) -> Array:
    """Mean of `values` [example] over the examples whose `mask` [example] is 1 (all where it is None);
    0 where there is none."""
    if mask is None:
        return values.mean()
    weights = mask.astype(values.dtype)
    return (jnp.where(weights > 0, values, 0) * weights).sum() / jnp.maximum(weights.sum(), 1)


def present_ways(labels: Array, way: int, mask: Array | None) -> Array:
    """Which of the `way` ways have a real example: booleans [way] from integer labels [example].

    Where `mask` is None every way is present, so that nothing is spent on fixed-size episodes.
    """
    if mask is None:
        return jnp.ones(way, bool)
    return (jax.nn.one_hot(labels, way, dtype=bool) & (mask > 0)[:, None]).any(0)


def mask_absent_ways(logits: Array, present: Array) -> Array:
    """Logits [..., way] with those of absent ways (`present` [way] false) out of every softmax."""
    ways = jnp.broadcast_to(present, logits.shape)
    return jnp.where(ways, logits, jnp.asarray(ABSENT, logits.dtype))


def smooth_labels(labels: Array, present: Array, smoothing: float, dtype: jnp.dtype) -> Array:
    """Label distributions [example, way]: (1 - smoothing) on the label of [example] and `smoothing` spread
    evenly over the ways of `present` [way] (label smoothing as in the released COMLN code)."""
    way = present.shape[-1]
    hard = jax.nn.one_hot(labels, way, dtype=dtype)
    share = present.astype(dtype) / present.sum().astype(dtype)
    return (1 - smoothing) * hard + smoothing * jnp.broadcast_to(share, hard.shape)


def cross_entropy(outputs: Array, batch: Batch, *, smoothing: float = 0.0) -> Array:
    """Mean cross-entropy of logits [example, way] against integer labels [example]; a scalar in nats.

    `smoothing` spreads that share of a label over the ways that the task has. Raises ValueError where the
    shapes do not fit.
    """
    if outputs.ndim != 2 or batch.y.shape != outputs.shape[:1]:
        raise ValueError(
            f"cross_entropy: logits {outputs.shape} and labels {batch.y.shape} do not fit; expected "
            "[example, way] and integer labels [example]"
        )
    log_p = jax.nn.log_softmax(outputs)
    if not smoothing:
        picked = jnp.take_along_axis(log_p, batch.y[:, None], axis=1)[:, 0]
        return masked_mean(-picked, batch.mask)
    # Absent ways carry the same logit in every row of a task.
    target = smooth_labels(batch.y, outputs[0] > ABSENT / 2, smoothing, outputs.dtype)
    return masked_mean(-(target * jnp.where(target > 0, log_p, 0)).sum(-1), batch.mask)


def summed_cross_entropy(outputs: Array, stream: Stream) -> Array:
    """Sum over time of the cross-entropy of logits [time, way] against the labels `y` [time] of a stream; a
    scalar in nats (Babu et al. 2021, section 3.4)."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(outputs), stream.y[:, None], axis=1)[:, 0]
    return -picked.sum() if stream.mask is None else -jnp.where(stream.mask > 0, picked, 0).sum()


def mean_squared_error(outputs: Array, batch: Batch) -> Array:
    """Mean squared error of outputs [example, ...] against targets of the same shape; a scalar.

    Raises ValueError where the shapes differ.
    """
    if outputs.shape != batch.y.shape:
        raise ValueError(
            f"mean_squared_error: outputs {outputs.shape} and targets {batch.y.shape} differ; "
            "give targets the shape of the network's outputs"
        )
    squared = jnp.square(outputs - batch.y)
    return masked_mean(squared.reshape(squared.shape[0], -1).mean(1), batch.mask)
