"""Experience replay: every batch is learned together with a draw from a reservoir of the past."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jmeta.online import reservoir
from jmeta.online.state import (
    OnlineState,
    descend,
    example_batch,
    init_params,
    joined,
    loss_of,
    predictor,
    require,
)
from jmeta.types import Array, Batch, Key, Metrics, Model, Online, PyTree


def experience_replay(
    model: Model,
    loss: Callable[[PyTree, Batch], Array],
    *,
    learning_rate: float = 0.1,
    capacity: int = 200,
    replay: int = 10,
) -> Online:
    """A step on the mean loss of each batch and `replay` examples from a reservoir of `capacity`.

    Examples enter the reservoir after the step, in the first pass only (Riemer et al. 2019). Raises
    ValueError for numbers that are not positive.
    """
    require("experience_replay", learning_rate=learning_rate, capacity=capacity, replay=replay)
    measure = loss_of(model, loss)

    def init(key: Key, x: PyTree) -> OnlineState:
        return OnlineState(init_params(model, key, x), (), reservoir.empty(capacity, example_batch(x)))

    def observe(
        state: OnlineState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[OnlineState, Metrics]:
        key_draw, key_add = jax.random.split(key)
        together = joined(batch, reservoir.draw(state.memory, replay, key_draw))
        value, grads = jax.value_and_grad(measure)(state.params, together)
        memory = reservoir.add(state.memory, batch, key_add, accept=first_pass)
        params = descend(state.params, learning_rate, grads)
        return OnlineState(params, (), memory), {"loss": value}

    return Online(init, observe, predictor(model))
