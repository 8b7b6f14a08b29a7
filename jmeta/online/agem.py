"""A-GEM: one averaged constraint in the place of GEM's many (Chaudhry et al., ICLR 2019)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.online import task_memory
from jmeta.online.state import OnlineState, descend, example_batch, init_params, loss_of, predictor, require
from jmeta.types import Array, Batch, Key, Metrics, Model, Online, PyTree


def agem(
    model: Model,
    loss: Callable[[PyTree, Batch], Array],
    *,
    tasks: int,
    learning_rate: float = 0.01,
    slots: int = 10,
    replay: int = 64,
) -> Online:
    """Step along g - (g'r / r'r) r where g'r < 0, and along g elsewhere; r is the gradient of a replay draw.

    The draw is of `replay` examples, each uniform over what is held of all past tasks.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      tasks: number of tasks in the stream.
      learning_rate: of the steps.
      slots: examples kept of each task, its last ones.
      replay: examples of a draw.

    Raises:
      ValueError: for numbers that are not positive.
    """
    require("agem", tasks=tasks, learning_rate=learning_rate, slots=slots, replay=replay)
    measure = loss_of(model, loss)

    def init(key: Key, x: PyTree) -> OnlineState:
        memory = task_memory.empty(tasks, slots, example_batch(x))
        return OnlineState(init_params(model, key, x), (), memory)

    def observe(
        state: OnlineState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[OnlineState, Metrics]:
        value, grads = jax.value_and_grad(measure)(state.params, batch)
        reference = jax.grad(measure)(state.params, _draw_past(state.memory, task, replay, key))
        step = _without_conflict(grads, reference)
        memory = task_memory.add(state.memory, batch, task, accept=first_pass)
        return OnlineState(descend(state.params, learning_rate, step), (), memory), {"loss": value}

    return Online(init, observe, predictor(model))


def _draw_past(memory: task_memory.TaskMemory, task: Array, count: int, key: Key) -> Batch:
    """`count` examples of the tasks before `task`, all masked where there is none."""
    tasks, slots = memory.y.shape[:2]
    held = jnp.minimum(memory.seen, slots)[:, None] > jnp.arange(slots)[None]
    past = (held & (jnp.arange(tasks) < task)[:, None]).reshape(-1)
    weights = past.astype(jnp.float32) + jnp.where(past.any(), 0.0, 1.0)
    place = jax.random.categorical(key, jnp.log(weights), shape=(count,))
    x, y = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[place], (memory.x, memory.y))
    return Batch(x, y, past[place].astype(jnp.float32))


def _without_conflict(grads: PyTree, reference: PyTree) -> PyTree:
    flat, unravel = ravel_pytree(grads)
    along, _ = ravel_pytree(reference)
    product, length = flat @ along, jnp.maximum(along @ along, 1e-20)
    return unravel(flat - jnp.where(product < 0, product / length, 0) * along)
