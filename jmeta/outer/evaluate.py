"""Evaluation on tasks drawn from a fixed key."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.types import Array, Key, Learner, LearnerState, Metrics, Task


def evaluate(
    learner: Learner,
    state: LearnerState,
    sampler: Callable[[Key], Task] | Task,
    *,
    num_tasks: int,
    key: Key,
    batch: int = 50,
) -> dict[str, np.ndarray]:
    """Compute the metrics of `num_tasks` tasks, which depend on `key` and the task's index alone.

    Args:
      learner: the learner whose `evaluate` runs the tasks.
      state: the learned state.
      sampler: `key -> Task`; a pytree (`jax.tree_util.Partial`), so that its data is an argument. Or the
        tasks themselves, as one `Task` with a leading axis [task].
      num_tasks: number of tasks.
      key: the typed key that they are drawn from.
      batch: number of tasks to run at a time; the numbers do not depend on it.

    Returns:
      {metric: [task]}; summarize each with `jmeta.summarize`.

    Raises:
      ValueError: for fewer than one task, and for more tasks than there are.
    """
    if num_tasks < 1:
        raise ValueError(f"evaluate: num_tasks={num_tasks}; expected at least 1")
    if not callable(sampler) and num_tasks > (available := jax.tree.leaves(sampler)[0].shape[0]):
        raise ValueError(f"evaluate: num_tasks={num_tasks}; there are {available}")
    batch = min(batch, num_tasks)
    parts = [
        jax.device_get(_evaluate_batch(learner, state, sampler, key, jnp.int32(start), batch))
        for start in range(0, num_tasks, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts])[:num_tasks] for name in parts[0]}


@functools.partial(jax.jit, static_argnums=(0, 5))
def _evaluate_batch(
    learner: Learner,
    state: LearnerState,
    sampler: Callable[[Key], Task] | Task,
    key: Key,
    start: Array,
    batch: int,
) -> Metrics:
    index = start + jnp.arange(batch, dtype=jnp.int32)
    if callable(sampler):
        tasks = jax.vmap(lambda index: sampler(jax.random.fold_in(key, index)))(index)
    else:  # beyond the last task the values are cut off
        tasks = jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip"), sampler)
    return learner.evaluate(state, tasks, start)
