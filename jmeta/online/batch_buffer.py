"""A buffer of whole batches in the order in which they came, of static size."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.types import Array, Batch


class BatchBuffer(NamedTuple):
    """`batches`, leaves [slot, example, ...], of which the first `held` [] int32 are real."""

    batches: Batch
    held: Array


def empty(capacity: int, batch: Batch) -> BatchBuffer:
    """A buffer for `capacity` batches like `batch`; ValueError for a capacity below 1."""
    if capacity < 1:
        raise ValueError(f"batch_buffer: capacity={capacity}; expected at least 1")
    blank = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), batch)
    return BatchBuffer(blank, jnp.zeros((), jnp.int32))


def push(buffer: BatchBuffer, batch: Batch, *, accept: Array | bool = True) -> BatchBuffer:
    """The buffer with one more batch, or as it was where `accept` [] is false or it is full."""
    capacity = jax.tree.leaves(buffer.batches)[0].shape[0]
    slot = jnp.where(accept, buffer.held, capacity)  # beyond the end: dropped
    batches = jax.tree.map(lambda slots, new: slots.at[slot].set(new, mode="drop"), buffer.batches, batch)
    return BatchBuffer(batches, jnp.minimum(buffer.held + jnp.where(accept, 1, 0), capacity))


def cleared(buffer: BatchBuffer, when: Array) -> BatchBuffer:
    """The buffer, empty where `when` [] is true."""
    return buffer._replace(held=jnp.where(when, 0, buffer.held))


def pairs(buffer: BatchBuffer) -> Array:
    """Number [] of pairs of `pair`: half of the batches, rounded down; one where a single batch is held."""
    return jnp.maximum(buffer.held, 2) // 2


def pair(buffer: BatchBuffer, index: Array) -> tuple[Batch, Batch]:
    """Batch `index` [] of the first half and its partner in the second, which starts in the middle, rounded
    up; a single batch is its own partner."""
    partner = (jnp.maximum(buffer.held, 2) + 1) // 2 + index
    return _at(buffer, index), _at(buffer, jnp.minimum(partner, buffer.held - 1))


def _at(buffer: BatchBuffer, slot: Array) -> Batch:
    return jax.tree.map(lambda leaf: leaf[slot], buffer.batches)
