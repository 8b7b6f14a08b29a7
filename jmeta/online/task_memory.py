"""Memory by task: the last examples of every task, as GEM keeps them (Lopez-Paz & Ranzato 2017).

Deviations. A batch that reaches the end of the ring continues at its start; the published code drops the rest
of the batch and starts over.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.bounds import one_or_nan, require_within
from jmeta.online.fits import arrivals, require_fit
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

    Only the first examples of a batch that is longer than the ring are kept, as in the published code, and no
    padding. Raises ValueError for examples unlike those that the memory was made for, and for a concrete task
    beyond its tasks; of a traced one nothing is kept, see `task_factor`.
    """
    _check_task(memory, task)
    slots = _slots(memory)
    example = jax.tree.map(lambda leaf: leaf[0], (memory.x, memory.y))
    require_fit("task_memory", example, (batch.x, batch.y))
    place, count, real = arrivals(batch)
    slot = (memory.seen[task] + place) % slots
    slot = jnp.where(accept & real & (place < slots), slot, slots)  # beyond the end: dropped

    def put(held: Array, new: Array) -> Array:
        return held.at[task, slot].set(new.astype(held.dtype), mode="drop")

    x, y = jax.tree.map(put, (memory.x, memory.y), (batch.x, batch.y))
    kept = jnp.where(accept, jnp.minimum(count, slots), 0)
    return TaskMemory(x, y, memory.seen.at[task].add(kept, mode="drop"))


def task_factor(memory: TaskMemory, task: Array | int) -> Array:
    """Return 1, or NaN for a traced `task` [] beyond those of the memory; ValueError for a concrete one."""
    _check_task(memory, task)
    return one_or_nan(jnp.asarray(task) < memory.seen.shape[0])


def _check_task(memory: TaskMemory, task: Array | int) -> None:
    tasks = memory.seen.shape[0]
    require_within("task_memory", "task", task, 0, tasks - 1, f"a memory of tasks={tasks}")


def examples_by_task(memory: TaskMemory) -> Batch:
    """Return all examples of all tasks, leaves [task, slot, ...], with empty slots masked."""
    mask = jnp.arange(_slots(memory))[None] < memory.seen[:, None]
    return Batch(memory.x, memory.y, mask.astype(jnp.float32))


def _slots(memory: TaskMemory) -> int:
    return jax.tree.leaves(memory.x)[0].shape[1]
