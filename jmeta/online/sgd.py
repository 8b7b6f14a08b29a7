"""Online gradient descent: a step on every batch, and nothing against forgetting."""

from __future__ import annotations

import jax

from jmeta.online.sgd_state import (
    OnlineState,
    descend,
    init_params,
    params_loss,
    predictor,
    require_positive,
)
from jmeta.types import Batch, BatchLoss, Context, Key, Metrics, Model, Online, PyTree


def online_sgd(model: Model, loss: BatchLoss, *, learning_rate: float = 0.0003) -> Online:
    """Update theta <- theta - learning_rate * the gradient of `loss(outputs, batch)` on each batch.

    The baseline of Riemer et al. 2019. Raises ValueError for a rate that is not positive.
    """
    require_positive("sgd", learning_rate=learning_rate)
    batch_loss = params_loss(model, loss)

    def init(key: Key, x: PyTree) -> OnlineState:
        return OnlineState(init_params(model, key, x), (), ())

    def observe(
        state: OnlineState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[OnlineState, Metrics]:
        value, grads = jax.value_and_grad(batch_loss)(state.params, batch)
        return state._replace(params=descend(state.params, learning_rate, grads)), {"loss": value}

    return Online(init, observe, predictor(model))
