"""Memory by task: the last examples of every task, as GEM keeps them (Lopez-Paz & Ranzato 2017).

Deviations. A batch that reaches the end of the ring continues at its start; the published code drops the rest
of the batch and starts over.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.types import Array, Batch, PyTree


class TaskMemory(NamedTuple):
    """`x` [task, slot, ...] and `y` [task, slot, ...]; `seen` [task] int32, the number of examples of each
    task so far, of which the last ones are held."""

    x: PyTree
    y: PyTree
    seen: Array


def empty_task_memory(tasks: int, slots: int, batch: Batch) -> TaskMemory:
    """Make a memory of `slots` examples like those of `batch` for each of `tasks` tasks."""

    def blank(leaf: Array) -> Array:
        return jnp.zeros((tasks, slots, *leaf.shape[1:]), leaf.dtype)

    x, y = jax.tree.map(blank, (batch.x, batch.y))
    return TaskMemory(x, y, jnp.zeros(tasks, jnp.int32))


def add_to_task_memory(
    memory: TaskMemory, batch: Batch, task: Array | int, *, accept: Array | bool = True
) -> TaskMemory:
    """Write the examples of `batch` into the ring of `task` [], unless `accept` [] is false.

    Only the first examples of a batch that is longer than the ring are kept, as in the published code.
    """
    slots = jax.tree.leaves(memory.y)[0].shape[1]
    count = min(batch.y.shape[0], slots)
    slot = (memory.seen[task] + jnp.arange(count)) % slots
    slot = jnp.where(accept, slot, slots)  # beyond the end: dropped

    def put(held: Array, new: Array) -> Array:
        return held.at[task, slot].set(new[:count].astype(held.dtype), mode="drop")

    x, y = jax.tree.map(put, (memory.x, memory.y), (batch.x, batch.y))
    return TaskMemory(x, y, memory.seen.at[task].add(jnp.where(accept, count, 0)))


def examples_by_task(memory: TaskMemory) -> Batch:
    """Return all examples of all tasks, leaves [task, slot, ...], with empty slots masked."""
    slots = memory.y.shape[1]
    mask = jnp.arange(slots)[None] < memory.seen[:, None]
    return Batch(memory.x, memory.y, mask.astype(jnp.float32))
