"""A-GEM: one averaged constraint in place of GEM's constraint for each task (Chaudhry et al., ICLR 2019)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.bounds import spoil
from jmeta.online.sgd_state import (
    OnlineState,
    descend,
    example_batch,
    init_params,
    params_loss,
    predictor,
    require_positive,
)
from jmeta.online.task_memory import TaskMemory, add_to_task_memory, empty_task_memory, task_factor
from jmeta.types import Array, Batch, BatchLoss, Context, Key, Metrics, Model, Online, PyTree


def agem(
    model: Model,
    loss: BatchLoss,
    *,
    tasks: int,
    learning_rate: float = 0.01,
    slots: int = 10,
    replay: int = 64,
) -> Online:
    """Step along g - (g'r / r'r) r if g'r < 0, else along g; r is the gradient on a draw from past tasks.

    The draw has `replay` examples, each uniform over those that are held of all past tasks.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      tasks: number of tasks in the stream. A later one raises ValueError if its number is concrete, and makes
        the weights NaN if it is traced.
      learning_rate: step size.
      slots: examples kept of each task, its last ones.
      replay: examples of a draw.

    Raises:
      ValueError: for numbers that are not positive.
    """
    require_positive("agem", tasks=tasks, learning_rate=learning_rate, slots=slots, replay=replay)
    batch_loss = params_loss(model, loss)

    def init(key: Key, x: PyTree) -> OnlineState:
        memory = empty_task_memory(tasks, slots, example_batch(x))
        return OnlineState(init_params(model, key, x), (), memory)

    def observe(
        state: OnlineState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[OnlineState, Metrics]:
        task, first_pass = Context() if context is None else context
        factor = task_factor(state.memory, task)
        value, grads = jax.value_and_grad(batch_loss)(state.params, batch)
        reference = jax.grad(batch_loss)(state.params, _draw_past(state.memory, task, replay, key))
        step = spoil(_without_conflict(grads, reference), factor)
        memory = add_to_task_memory(state.memory, batch, task, accept=first_pass)
        return OnlineState(descend(state.params, learning_rate, step), (), memory), {"loss": value * factor}

    return Online(init, observe, predictor(model))


def _draw_past(memory: TaskMemory, task: Array | int, count: int, key: Key) -> Batch:
    """Draw `count` examples of the tasks before `task`; all are masked if there are none."""
    tasks, slots = jax.tree.leaves(memory.x)[0].shape[:2]
    held = jnp.minimum(memory.seen, slots)[:, None] > jnp.arange(slots)[None]  # [task, slot]
    past = (held & (jnp.arange(tasks) < task)[:, None]).reshape(-1)  # [task and slot]
    weights = past.astype(jnp.float32) + jnp.where(past.any(), 0.0, 1.0)
    place = jax.random.categorical(key, jnp.log(weights), shape=(count,))
    x, y = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[place], (memory.x, memory.y))
    return Batch(x, y, past[place].astype(jnp.float32))


def _without_conflict(grads: PyTree, reference: PyTree) -> PyTree:
    flat, unravel = ravel_pytree(grads)
    along, _ = ravel_pytree(reference)
    product, length = flat @ along, jnp.maximum(along @ along, 1e-20)
    return unravel(flat - jnp.where(product < 0, product / length, 0) * along)
