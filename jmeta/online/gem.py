"""GEM: gradient episodic memory (Lopez-Paz & Ranzato, NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.online import task_memory
from jmeta.online.projection import project
from jmeta.online.state import (
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
) -> Online:
    """Step along the gradient of each batch, projected so that no past task's memory gets worse.

    The memory of a task is its last `slots` examples, so that batches of the task itself enter before the
    step. The task's index serves the memory alone. Finding the gradients of all past tasks and the projection
    is most of the work; over several seeds `jax.lax.map` is faster than `jax.vmap`, which would solve the
    quadratic program at every step.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      tasks: number of tasks in the stream.
      learning_rate: of the steps.
      margin: least multiplier of a past task's gradient, where there is any conflict.
      slots: examples kept of each task.
      ridge: added to the diagonal of the quadratic program.
      clip: largest global norm of the projected gradient, None for no limit.

    Raises:
      ValueError: for numbers that are not positive.
    """
    require("gem", tasks=tasks, learning_rate=learning_rate, slots=slots, ridge=ridge, clip=clip)
    measure = loss_of(model, loss)

    def init(key: Key, x: PyTree) -> OnlineState:
        memory = task_memory.empty(tasks, slots, example_batch(x))
        return OnlineState(init_params(model, key, x), (), memory)

    def past_gradients(params: PyTree, memory: task_memory.TaskMemory, task: Array) -> Array:
        size = ravel_pytree(params)[0].size

        def fill(index: Array, rows: Array) -> Array:
            grads = jax.grad(measure)(params, task_memory.of_task(memory, index))
            return rows.at[index].set(ravel_pytree(grads)[0])

        blank = jnp.zeros((tasks, size), jax.tree.leaves(params)[0].dtype)
        return jax.lax.fori_loop(0, task, fill, blank)

    def observe(
        state: OnlineState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[OnlineState, Metrics]:
        memory = task_memory.add(state.memory, batch, task, accept=first_pass)
        value, grads = jax.value_and_grad(measure)(state.params, batch)
        flat, unravel = ravel_pytree(grads)
        past = past_gradients(state.params, memory, task)
        moved = project(flat, past, jnp.arange(tasks) < task, margin=margin, ridge=ridge)
        step = clip_norm(unravel(moved), clip)
        return OnlineState(descend(state.params, learning_rate, step), (), memory), {"loss": value}

    return Online(init, observe, predictor(model))
