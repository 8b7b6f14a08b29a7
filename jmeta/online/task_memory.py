"""Memory by task: the last examples of every task, as GEM keeps them (Lopez-Paz & Ranzato 2017)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.types import Array, Batch, PyTree


class TaskMemory(NamedTuple):
    """`x` [task, slot, ...] and `y` [task, slot, ...]; `seen` [task] int32, the examples of each task so far,
    of which the last are held."""

    x: PyTree
    y: PyTree
    seen: Array


def empty(tasks: int, slots: int, batch: Batch) -> TaskMemory:
    """A memory of `slots` examples like those of `batch` for each of `tasks` tasks."""

    def blank(leaf: Array) -> Array:
        return jnp.zeros((tasks, slots, *leaf.shape[1:]), leaf.dtype)

    x, y = jax.tree.map(blank, (batch.x, batch.y))
    return TaskMemory(x, y, jnp.zeros(tasks, jnp.int32))


def add(memory: TaskMemory, batch: Batch, task: Array, *, accept: Array | bool = True) -> TaskMemory:
    """The memory with the examples of `batch` in the ring of `task` []; unchanged where `accept` is false.

    Of a batch that is longer than the ring the first examples are kept, as in the published code.
    """
    slots = jax.tree.leaves(memory.y)[0].shape[1]
    kept = min(batch.y.shape[0], slots)
    slot = (memory.seen[task] + jnp.arange(kept)) % slots
    slot = jnp.where(accept, slot, slots)  # beyond the end: dropped

    def put(held: Array, new: Array) -> Array:
        return held.at[task, slot].set(new[:kept].astype(held.dtype), mode="drop")

    x, y = jax.tree.map(put, (memory.x, memory.y), (batch.x, batch.y))
    return TaskMemory(x, y, memory.seen.at[task].add(jnp.where(accept, kept, 0)))


def of_tasks(memory: TaskMemory) -> Batch:
    """All that is held of every task, leaves [task, slot, ...], with empty slots masked."""
    slots = memory.y.shape[1]
    mask = jnp.arange(slots)[None] < memory.seen[:, None]
    return Batch(memory.x, memory.y, mask.astype(jnp.float32))
