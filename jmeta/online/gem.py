"""GEM: gradient episodic memory (Lopez-Paz & Ranzato, NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.online import task_memory
from jmeta.online.projection import Rows, project, rows_of
from jmeta.online.state import (
    Loss,
    OnlineState,
    clip_norm,
    descend,
    example_batch,
    init_params,
    loss_of,
    predictor,
    require,
)
from jmeta.types import Array, Batch, Key, Metrics, Model, Online, PyTree


class PastGradients(NamedTuple):
    """How the gradients of all past tasks are found.

    `prepare(examples) -> cache` finds what depends on the remembered examples alone, a Batch of leaves [task,
    slot, ...] with a mask, once for every task of the stream; `rows(params, examples, cache) -> Rows` are the
    gradients.
    """

    prepare: Callable[[Batch], PyTree]
    rows: Callable[[PyTree, Batch, PyTree], Rows]


class Memory(NamedTuple):
    """The `examples` of the tasks; `cache` is what `PastGradients.prepare` made of them for `task` []."""

    examples: task_memory.TaskMemory
    cache: PyTree
    task: Array


def one_by_one(loss: Loss) -> PastGradients:
    """The gradient of each task's examples, one task after the other, for any network."""

    def rows(params: PyTree, examples: Batch, cache: PyTree) -> Rows:
        unravel = ravel_pytree(params)[1]
        return rows_of(
            jax.lax.map(lambda batch: ravel_pytree(jax.grad(loss)(params, batch))[0], examples), unravel
        )

    return PastGradients(lambda examples: (), rows)


def gem(
    model: Model,
    loss: Callable[[PyTree, Batch], Array],
    *,
    tasks: int,
    learning_rate: float = 0.01,
    margin: float = 0.0,
    slots: int = 10,
    ridge: float = 1e-3,
    clip: float | None = None,
    past: PastGradients | None = None,
) -> Online:
    """Step along the gradient of each batch, projected so that no past task's memory gets worse.

    The memory of a task is its last `slots` examples, and the task's index serves the memory alone. Finding
    the gradients of all past tasks and the projection is most of the work; over several seeds `jax.lax.map`
    is faster than `jax.vmap`, which would solve the quadratic program at every step.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      tasks: number of tasks in the stream.
      learning_rate: of the steps.
      margin: least multiplier of a past task's gradient, where there is any conflict.
      slots: examples kept of each task.
      ridge: added to the diagonal of the quadratic program.
      clip: largest global norm of the projected gradient, None for no limit.
      past: another way to find the past gradients, such as `jmeta.online.dense.dense_past_gradients`.

    Raises:
      ValueError: for numbers that are not positive.
    """
    require("gem", tasks=tasks, learning_rate=learning_rate, slots=slots, ridge=ridge, clip=clip)
    measure = loss_of(model, loss)
    gradients = past or one_by_one(measure)

    def init(key: Key, x: PyTree) -> OnlineState:
        examples = task_memory.empty(tasks, slots, example_batch(x))
        cache = gradients.prepare(task_memory.of_tasks(examples))
        return OnlineState(init_params(model, key, x), (), Memory(examples, cache, jnp.int32(0)))

    def refreshed(memory: Memory, task: Array) -> Memory:
        """The memory with a cache for this task; examples of past tasks do not change during a task."""
        cache = jax.lax.cond(
            task == memory.task,
            lambda: memory.cache,
            lambda: gradients.prepare(task_memory.of_tasks(memory.examples)),
        )
        return memory._replace(cache=cache, task=task)

    def observe(
        state: OnlineState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[OnlineState, Metrics]:
        memory = refreshed(state.memory, jnp.asarray(task, jnp.int32))
        value, grads = jax.value_and_grad(measure)(state.params, batch)
        rows = gradients.rows(state.params, task_memory.of_tasks(memory.examples), memory.cache)
        moved = project(grads, rows, jnp.arange(tasks) < task, margin=margin, ridge=ridge)
        params = descend(state.params, learning_rate, clip_norm(moved, clip))
        examples = task_memory.add(memory.examples, batch, task, accept=first_pass)
        return OnlineState(params, (), memory._replace(examples=examples)), {"loss": value}

    return Online(init, observe, predictor(model))
