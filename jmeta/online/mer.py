"""MER, meta-experience replay: Reptile within replay batches and across them (Riemer et al., ICLR 2019)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jmeta.online import reservoir
from jmeta.online.state import (
    Loss,
    OnlineState,
    descend,
    example_batch,
    examples_of,
    init_params,
    joined,
    loss_of,
    predictor,
    require,
)
from jmeta.types import Array, Batch, Key, Metrics, Model, Online, PyTree

Steps = Callable[[PyTree, Array | float, Batch], tuple[PyTree, Array]]


def steps(loss: Loss, params: PyTree, rate: Array | float, batch: Batch) -> tuple[PyTree, Array]:
    """A step of gradient descent on each example of a batch, one after the other: the parameters, and the
    loss of each example before its step [example]. Masked examples have no loss and no gradient."""

    def step(params: PyTree, example: Batch) -> tuple[PyTree, Array]:
        value, grads = jax.value_and_grad(loss)(params, example)
        return descend(params, rate, grads), value

    return jax.lax.scan(step, params, examples_of(batch))


def mer(
    model: Model,
    loss: Callable[[PyTree, Batch], Array],
    *,
    learning_rate: float = 0.1,
    within: float = 0.01,
    across: float = 1.0,
    batches: int = 5,
    capacity: int = 200,
    replay: int = 10,
    one_by_one: Steps | None = None,
) -> Online:
    """MER, algorithm 1. For every example, with A the weights before it, `batches` times:

        W = theta; a step of size `learning_rate` on the example, then on each of `replay` drawn examples
        theta <- W + within * (theta - W)

    and at last theta <- A + across * (theta - A). The example then enters the reservoir (in the first pass).
    A batch of several examples is taken one by one.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      learning_rate, within, across: of the steps, and of the two interpolations (beta and gamma).
      batches: replay batches for each example.
      capacity, replay: slots of the reservoir, and examples of a draw.
      one_by_one: another way to compute `steps`, such as `jmeta.online.dense.dense_steps`.

    Raises:
      ValueError: for numbers that are not positive.
    """
    require("mer", learning_rate=learning_rate, within=within, across=across, batches=batches)
    require("mer", capacity=capacity, replay=replay)
    descend_one_by_one = one_by_one or functools.partial(steps, loss_of(model, loss))

    def init(key: Key, x: PyTree) -> OnlineState:
        return OnlineState(init_params(model, key, x), (), reservoir.empty(capacity, example_batch(x)))

    def one_batch(
        params: PyTree, current: Batch, memory: reservoir.Reservoir, key: Key
    ) -> tuple[PyTree, Array]:
        together = joined(current, reservoir.draw(memory, replay, key))
        moved, values = descend_one_by_one(params, learning_rate, together)
        return _between(params, moved, within), values[0]

    def one_example(state: OnlineState, inputs: tuple[Batch, Key, Array]) -> tuple[OnlineState, Array]:
        current, key, first_pass = inputs
        key_add, key_draw = jax.random.split(key)
        params, values = jax.lax.scan(
            lambda params, key: one_batch(params, current, state.memory, key),
            state.params,
            jax.random.split(key_draw, batches),
        )
        params = _between(state.params, params, across)
        memory = reservoir.add(state.memory, current, key_add, accept=first_pass)
        return OnlineState(params, (), memory), values[0]

    def observe(
        state: OnlineState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[OnlineState, Metrics]:
        count = batch.y.shape[0]
        inputs = (examples_of(batch), jax.random.split(key, count), jnp.broadcast_to(first_pass, (count,)))
        state, values = jax.lax.scan(one_example, state, inputs)
        return state, {"loss": values.mean()}

    return Online(init, observe, predictor(model))


def _between(before: PyTree, after: PyTree, share: float | Array) -> PyTree:
    return jax.tree.map(lambda a, b: a + jnp.asarray(share, a.dtype) * (b - a), before, after)
