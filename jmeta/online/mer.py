"""MER, meta-experience replay: Reptile within replay batches and across them (Riemer et al., ICLR 2019)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jmeta.online.reservoir import Reservoir, add_to_reservoir, draw_from_reservoir, empty_reservoir
from jmeta.online.sgd_state import (
    OnlineState,
    ParamsLoss,
    batch_size,
    concatenate_batches,
    descend,
    example_batch,
    init_params,
    params_loss,
    predictor,
    require_positive,
    single_examples,
)
from jmeta.types import Array, Batch, BatchLoss, Context, Key, Metrics, Model, Online, PyTree

Steps = Callable[[PyTree, Array | float, Batch], tuple[PyTree, Array]]  # (params, rate, batch)


def example_steps(
    loss: ParamsLoss, params: PyTree, rate: Array | float, batch: Batch
) -> tuple[PyTree, Array]:
    """Take a step of gradient descent on each example of a batch, one after another.

    Returns the parameters, and the loss of each example before its step [example]. Masked examples have no
    loss and no gradient.
    """

    def step(params: PyTree, example: Batch) -> tuple[PyTree, Array]:
        value, grads = jax.value_and_grad(loss)(params, example)
        return descend(params, rate, grads), value

    return jax.lax.scan(step, params, single_examples(batch))


def mer(
    model: Model,
    loss: BatchLoss,
    *,
    learning_rate: float = 0.1,
    within: float = 0.01,
    across: float = 1.0,
    replay_batches: int = 5,
    capacity: int = 200,
    replay: int = 10,
    one_by_one: Steps | None = None,
) -> Online:
    """Run algorithm 1. For every example, with A the weights before it, `replay_batches` times:

        W = theta; a step of size `learning_rate` on the example, then on each of `replay` drawn examples
        theta <- W + within * (theta - W)

    and finally theta <- A + across * (theta - A). The example then enters the reservoir (in the first pass).
    The examples of a batch are taken one by one.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      learning_rate: step size.
      within, across: rates of the two interpolations (beta and gamma).
      replay_batches: replay batches for each example.
      capacity, replay: slots of the reservoir, and examples of a draw.
      one_by_one: another way to compute `example_steps`, such as `jmeta.online.dense.dense_steps`.

    Raises:
      ValueError: for numbers that are not positive.
    """
    require_positive("mer", learning_rate=learning_rate, within=within, across=across)
    require_positive("mer", replay_batches=replay_batches, capacity=capacity, replay=replay)
    descend_one_by_one = one_by_one or functools.partial(example_steps, params_loss(model, loss))

    def init(key: Key, x: PyTree) -> OnlineState:
        return OnlineState(init_params(model, key, x), (), empty_reservoir(capacity, example_batch(x)))

    def one_batch(params: PyTree, current: Batch, memory: Reservoir, key: Key) -> tuple[PyTree, Array]:
        joint = concatenate_batches(current, draw_from_reservoir(memory, replay, key))
        moved, values = descend_one_by_one(params, learning_rate, joint)
        return _interpolate(params, moved, within), values[0]

    def one_example(state: OnlineState, inputs: tuple[Batch, Key, Array]) -> tuple[OnlineState, Array]:
        current, key, first_pass = inputs
        key_add, key_draw = jax.random.split(key)
        params, values = jax.lax.scan(
            lambda params, key: one_batch(params, current, state.memory, key),
            state.params,
            jax.random.split(key_draw, replay_batches),
        )
        params = _interpolate(state.params, params, across)
        memory = add_to_reservoir(state.memory, current, key_add, accept=first_pass)
        return OnlineState(params, (), memory), values[0]

    def observe(
        state: OnlineState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[OnlineState, Metrics]:
        context = Context() if context is None else context
        count = batch_size(batch)
        first_passes = jnp.broadcast_to(jnp.asarray(context.first_pass), (count,))
        inputs = (single_examples(batch), jax.random.split(key, count), first_passes)
        state, values = jax.lax.scan(one_example, state, inputs)
        return state, {"loss": values.mean()}

    return Online(init, observe, predictor(model))


def _interpolate(before: PyTree, after: PyTree, share: float | Array) -> PyTree:
    return jax.tree.map(lambda a, b: a + jnp.asarray(share, a.dtype) * (b - a), before, after)
