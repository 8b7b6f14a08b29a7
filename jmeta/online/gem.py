"""GEM: gradient episodic memory (Lopez-Paz & Ranzato, NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.bounds import spoil
from jmeta.online.projection import Rows, project, rows_of
from jmeta.online.sgd_state import (
    OnlineState,
    ParamsLoss,
    clip_by_norm,
    descend,
    example_batch,
    init_params,
    params_loss,
    predictor,
    require_positive,
)
from jmeta.online.task_memory import (
    TaskMemory,
    add_to_task_memory,
    empty_task_memory,
    examples_by_task,
    task_factor,
)
from jmeta.types import Array, Batch, BatchLoss, Context, Key, Metrics, Model, Online, PyTree


class PastGradients(NamedTuple):
    """A way to compute the gradients of all past tasks.

    `prepare(examples) -> cache` computes, once for every task of the stream, the part that depends on the
    remembered examples alone, a Batch of leaves [task, slot, ...] with a mask;
    `rows(params, examples, cache) -> Rows` computes the gradients.
    """

    prepare: Callable[[Batch], PyTree]
    rows: Callable[[PyTree, Batch, PyTree], Rows]


class GemMemory(NamedTuple):
    """The `examples` of the tasks, and the `cache` that `PastGradients.prepare` returned for `task` []."""

    examples: TaskMemory
    cache: PyTree
    task: Array


def past_gradients(loss: ParamsLoss) -> PastGradients:
    """Compute the gradient on each task's examples, one task after another, for any network."""

    def rows(params: PyTree, examples: Batch, cache: PyTree) -> Rows:
        unravel = ravel_pytree(params)[1]
        matrix = jax.lax.map(lambda batch: ravel_pytree(jax.grad(loss)(params, batch))[0], examples)
        return rows_of(matrix, unravel)  # [task, parameter]

    return PastGradients(lambda examples: (), rows)


def gem(
    model: Model,
    loss: BatchLoss,
    *,
    tasks: int,
    learning_rate: float = 0.01,
    margin: float = 0.0,
    slots: int = 10,
    ridge: float = 1e-3,
    clip_norm: float | None = None,
    past: PastGradients | None = None,
) -> Online:
    """Step along the gradient of each batch, projected so that no past task's memory gets worse.

    The memory of a task is its last `slots` examples, and the task's index serves the memory alone. Most of
    the work is the gradients of all past tasks and the projection; over several seeds `jax.lax.map` is faster
    than `jax.vmap`, which would solve the quadratic program at every step.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      tasks: number of tasks in the stream. A later one raises ValueError if its number is concrete, and makes
        the weights NaN if it is traced.
      learning_rate: step size.
      margin: least multiplier of a past task's gradient, if there is any conflict.
      slots: examples kept of each task.
      ridge: added to the diagonal of the quadratic program.
      clip_norm: largest global norm of the projected gradient, None for no limit.
      past: another way to compute the past gradients, such as `jmeta.online.dense.dense_past_gradients`.

    Raises:
      ValueError: for numbers that are not positive.
    """
    settings = {"learning_rate": learning_rate, "slots": slots, "ridge": ridge, "clip_norm": clip_norm}
    require_positive("gem", tasks=tasks, **settings)
    batch_loss = params_loss(model, loss)
    gradients = past or past_gradients(batch_loss)

    def init(key: Key, x: PyTree) -> OnlineState:
        examples = empty_task_memory(tasks, slots, example_batch(x))
        cache = gradients.prepare(examples_by_task(examples))
        return OnlineState(init_params(model, key, x), (), GemMemory(examples, cache, jnp.int32(0)))

    def refresh(memory: GemMemory, task: Array) -> GemMemory:
        """Renew the cache if the task is new; examples of past tasks do not change during a task."""
        cache = jax.lax.cond(
            task == memory.task,
            lambda: memory.cache,
            lambda: gradients.prepare(examples_by_task(memory.examples)),
        )
        return memory._replace(cache=cache, task=task)

    def observe(
        state: OnlineState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[OnlineState, Metrics]:
        task, first_pass = Context() if context is None else context
        factor = task_factor(state.memory.examples, task)
        memory = refresh(state.memory, jnp.asarray(task, jnp.int32))
        value, grads = jax.value_and_grad(batch_loss)(state.params, batch)
        rows = gradients.rows(state.params, examples_by_task(memory.examples), memory.cache)
        projected = project(spoil(grads, factor), rows, jnp.arange(tasks) < task, margin=margin, ridge=ridge)
        params = descend(state.params, learning_rate, clip_by_norm(projected, clip_norm))
        examples = add_to_task_memory(memory.examples, batch, task, accept=first_pass)
        return OnlineState(params, (), memory._replace(examples=examples)), {"loss": value * factor}

    return Online(init, observe, predictor(model))
