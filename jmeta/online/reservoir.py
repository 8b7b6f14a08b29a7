"""A replay buffer that holds a uniform sample of all examples so far (Vitter 1985, algorithm R).

Deviations. The n-th example is taken with probability N / n for N slots; the released code of La-MAML has N /
(n + 1).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.online.fits import arrivals, require_fit
from jmeta.types import Array, Batch, Key, PyTree


class Reservoir(NamedTuple):
    """`x` [slot, ...] and `y` [slot, ...], of which the first min(`seen`, slots) hold an example; `seen` []
    int32 is the number of examples so far."""

    x: PyTree
    y: PyTree
    seen: Array


def empty_reservoir(capacity: int, batch: Batch) -> Reservoir:
    """Make a reservoir of `capacity` slots for examples like those of `batch`.

    Raises ValueError for a capacity below 1.
    """
    if capacity < 1:
        raise ValueError(f"reservoir: capacity={capacity}; expected at least 1")

    def blank(leaf: Array) -> Array:
        return jnp.zeros((capacity, *leaf.shape[1:]), leaf.dtype)

    x, y = jax.tree.map(blank, (batch.x, batch.y))
    return Reservoir(x, y, jnp.zeros((), jnp.int32))


def add_to_reservoir(
    reservoir: Reservoir, batch: Batch, key: Key, *, accept: Array | bool = True
) -> Reservoir:
    """Offer the examples of `batch` to the reservoir, one after another, unless `accept` [] is false.

    The n-th example of all goes into the next free slot, or with probability capacity / n into a random one,
    so that every subset of the examples so far is equally likely to be held. Padding is not offered. Raises
    ValueError for examples unlike those that the reservoir was made for.
    """
    require_fit("reservoir", (reservoir.x, reservoir.y), (batch.x, batch.y))
    capacity = _capacity(reservoir)
    place, count, real = arrivals(batch)
    index, arrival = jnp.arange(place.size), reservoir.seen + place
    drawn = jax.random.randint(key, place.shape, 0, arrival + 1)
    slot = jnp.where(arrival < capacity, arrival, drawn)
    later = (index[None, :] > index[:, None]) & real[None, :]
    overwritten = ((slot[None, :] == slot[:, None]) & later).any(1)
    slot = jnp.where(overwritten | ~(jnp.asarray(accept) & real), capacity, slot)  # beyond the end: dropped

    def put(slots: Array, new: Array) -> Array:
        return slots.at[slot].set(new.astype(slots.dtype), mode="drop")

    x, y = jax.tree.map(put, (reservoir.x, reservoir.y), (batch.x, batch.y))
    return Reservoir(x, y, reservoir.seen + jnp.where(accept, count, 0).astype(jnp.int32))


def draw_from_reservoir(reservoir: Reservoir, count: int, key: Key) -> Batch:
    """Draw `count` examples, each uniform over those that are held (with replacement).

    If fewer are held, only that many are real and the rest is masked, as in the published code.
    """
    held = jnp.minimum(reservoir.seen, _capacity(reservoir))
    slot = jax.random.randint(key, (count,), 0, jnp.maximum(held, 1))
    x, y = jax.tree.map(lambda leaf: leaf[slot], (reservoir.x, reservoir.y))
    return Batch(x, y, (jnp.arange(count) < held).astype(jnp.float32))


def _capacity(reservoir: Reservoir) -> int:
    return jax.tree.leaves(reservoir.x)[0].shape[0]
