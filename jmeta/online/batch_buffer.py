"""A buffer of whole batches in the order of their arrival, of static size."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.online.fits import require_fit
from jmeta.types import Array, Batch


class BatchBuffer(NamedTuple):
    """`batches`, leaves [slot, example, ...], of which the first `held` [] int32 are real."""

    batches: Batch
    held: Array


def empty_buffer(capacity: int, batch: Batch) -> BatchBuffer:
    """Make a buffer for `capacity` batches like `batch`; ValueError for a capacity below 1."""
    if capacity < 1:
        raise ValueError(f"batch_buffer: capacity={capacity}; expected at least 1")
    blank = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), batch)
    return BatchBuffer(blank, jnp.zeros((), jnp.int32))


def push_batch(buffer: BatchBuffer, batch: Batch, *, accept: Array | bool = True) -> BatchBuffer:
    """Append a batch, unless `accept` [] is false or the buffer is full.

    Raises ValueError for a batch unlike those that the buffer was made for.
    """
    require_fit("batch_buffer", buffer.batches, batch, axes=0)
    capacity = jax.tree.leaves(buffer.batches)[0].shape[0]
    slot = jnp.where(accept, buffer.held, capacity)  # beyond the end: dropped
    batches = jax.tree.map(lambda slots, new: slots.at[slot].set(new, mode="drop"), buffer.batches, batch)
    return BatchBuffer(batches, jnp.minimum(buffer.held + jnp.where(accept, 1, 0), capacity))


def clear_if(condition: Array, buffer: BatchBuffer) -> BatchBuffer:
    """Empty the buffer if `condition` [] is true."""
    return buffer._replace(held=jnp.where(condition, 0, buffer.held))


def pair_count(buffer: BatchBuffer) -> Array:
    """Count the pairs of `pair` []: half of the batches, rounded down, but one if a single batch is held."""
    return jnp.maximum(buffer.held, 2) // 2


def pair(buffer: BatchBuffer, index: Array) -> tuple[Batch, Batch]:
    """Return batch `index` [] of the first half and its partner in the second half.

    The second half starts in the middle, rounded up; a single batch is its own partner.
    """
    partner = (jnp.maximum(buffer.held, 2) + 1) // 2 + index
    return _at(buffer, index), _at(buffer, jnp.minimum(partner, buffer.held - 1))


def _at(buffer: BatchBuffer, slot: Array) -> Batch:
    return jax.tree.map(lambda leaf: leaf[slot], buffer.batches)
