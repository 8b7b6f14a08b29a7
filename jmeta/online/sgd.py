"""Online gradient descent: a step on every batch, and nothing against forgetting."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jmeta.online.state import OnlineState, descend, init_params, loss_of, predictor, require
from jmeta.types import Array, Batch, Key, Metrics, Model, Online, PyTree


def sgd(model: Model, loss: Callable[[PyTree, Batch], Array], *, learning_rate: float = 0.0003) -> Online:
    """theta <- theta - learning_rate * the gradient of `loss(outputs, batch)` on each batch.

    The baseline of Riemer et al. 2019. Raises ValueError for a rate that is not positive.
    """
    require("sgd", learning_rate=learning_rate)
    measure = loss_of(model, loss)

    def init(key: Key, x: PyTree) -> OnlineState:
        return OnlineState(init_params(model, key, x), (), ())

    def observe(
        state: OnlineState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[OnlineState, Metrics]:
        value, grads = jax.value_and_grad(measure)(state.params, batch)
        return state._replace(params=descend(state.params, learning_rate, grads)), {"loss": value}

    return Online(init, observe, predictor(model))
