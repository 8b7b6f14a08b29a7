"""Evaluation on tasks drawn from a fixed key."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.parts import describe
from jmeta.types import Array, Key, Learner, LearnerState, Metrics, PyTree, Stream, Task


def evaluate(
    learner: Learner,
    state: LearnerState,
    sampler: Callable[[Key], Task] | Task | Stream,
    *,
    num_tasks: int,
    key: Key,
    batch: int = 50,
) -> dict[str, np.ndarray]:
    """Compute the metrics of `num_tasks` tasks, which depend on `key` and the task's index alone.

    Args:
      learner: the learner whose `evaluate` runs the tasks.
      state: the learned state.
      sampler: `key -> Task`, any callable. Of a pytree (`jax.tree_util.Partial`) arrays are arguments of the
        compiled program; those that a function closes over are constants of it, and another function is
        another program. Or the tasks themselves, as one `Task` (or `Stream`) with a leading axis [task].
      num_tasks: number of tasks.
      key: the typed key that they are drawn from.
      batch: number of tasks to run at a time; the numbers do not depend on it.

    Returns:
      {metric: [task]}; summarize each with `jmeta.summarize`.

    Raises:
      TypeError: for what is neither a sampler nor tasks.
      ValueError: for fewer than one task, for more tasks than there are, for tasks whose labels are beyond
        the outputs, and for a state that lies on one device of the learner's several.
    """
    if num_tasks < 1:
        raise ValueError(f"evaluate: num_tasks={num_tasks}; expected at least 1")
    if isinstance(sampler, Task | Stream):
        if num_tasks > (available := jax.tree.leaves(sampler)[0].shape[0]):
            raise ValueError(f"evaluate: num_tasks={num_tasks}; there are {available}")
        learner.check(state, sampler, train=False)
    elif not callable(sampler):
        raise TypeError(f"evaluate: the sampler is {describe(sampler)}; expected key -> Task, or a Task")
    batch = min(batch, num_tasks)
    arrays, rest = _split_arrays(sampler)
    starts = [jnp.int32(start) for start in range(0, num_tasks, batch)]
    try:
        parts = [
            jax.device_get(_evaluate_batch(learner, state, arrays, rest, key, start, batch))
            for start in starts
        ]
    except ValueError as error:
        if "incompatible devices" not in str(error):
            raise
        raise ValueError(
            "evaluate: the state, the tasks and the learner's mesh are not on the same devices; place the "
            "state, and tasks that lie on one device, by jmeta.replicate(state, mesh)"
        ) from error
    return {name: np.concatenate([part[name] for part in parts])[:num_tasks] for name in parts[0]}


class _Static(NamedTuple):
    """All of a sampler but its arrays; the types tell equal numbers apart, as 1 and 1.0."""

    structure: Any
    leaves: tuple
    types: tuple


def _split_arrays(sampler: PyTree) -> tuple[list, _Static]:
    """Split a sampler into its arrays and the rest, a plain function say, which the program is made for."""
    leaves, structure = jax.tree.flatten(sampler)
    arrays = [leaf if isinstance(leaf, jax.Array | np.ndarray | np.generic) else None for leaf in leaves]
    rest = tuple(
        None if array is not None else leaf if isinstance(leaf, Hashable) else _SameObject(leaf)
        for array, leaf in zip(arrays, leaves)
    )
    return arrays, _Static(structure, rest, tuple(map(type, rest)))


class _SameObject:
    """A callable without a hash, equal to nothing else."""

    def __init__(self, function: Callable[[Key], Task]) -> None:
        self.function = function

    def __call__(self, key: Key) -> Task:
        return self.function(key)


@functools.partial(jax.jit, static_argnums=(0, 3, 6))
def _evaluate_batch(
    learner: Learner,
    state: LearnerState,
    arrays: list,
    rest: _Static,
    key: Key,
    start: Array,
    batch: int,
) -> Metrics:
    leaves = [leaf if array is None else array for array, leaf in zip(arrays, rest.leaves)]
    sampler = jax.tree.unflatten(rest.structure, leaves)
    index = start + jnp.arange(batch, dtype=jnp.int32)
    if not isinstance(sampler, Task | Stream):
        tasks = jax.vmap(lambda index: sampler(jax.random.fold_in(key, index)))(index)
    else:  # beyond the last task the values are cut off
        tasks = jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip"), sampler)
    return learner.evaluate(state, tasks, start)
