"""Experience replay: every batch is learned together with a draw from a reservoir of the past."""

from __future__ import annotations

import jax

from jmeta.online.reservoir import add_to_reservoir, draw_from_reservoir, empty_reservoir
from jmeta.online.sgd_state import (
    OnlineState,
    concatenate_batches,
    descend,
    example_batch,
    init_params,
    params_loss,
    predictor,
    require_positive,
)
from jmeta.types import Batch, BatchLoss, Context, Key, Metrics, Model, Online, PyTree


def experience_replay(
    model: Model, loss: BatchLoss, *, learning_rate: float = 0.1, capacity: int = 200, replay: int = 10
) -> Online:
    """Step on the mean loss of each batch and `replay` examples from a reservoir of `capacity`.

    Examples enter the reservoir after the step, in the first pass only (Riemer et al. 2019). Raises
    ValueError for numbers that are not positive.
    """
    require_positive("experience_replay", learning_rate=learning_rate, capacity=capacity, replay=replay)
    batch_loss = params_loss(model, loss)

    def init(key: Key, x: PyTree) -> OnlineState:
        return OnlineState(init_params(model, key, x), (), empty_reservoir(capacity, example_batch(x)))

    def observe(
        state: OnlineState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[OnlineState, Metrics]:
        context = Context() if context is None else context
        key_draw, key_add = jax.random.split(key)
        joint = concatenate_batches(batch, draw_from_reservoir(state.memory, replay, key_draw))
        value, grads = jax.value_and_grad(batch_loss)(state.params, joint)
        memory = add_to_reservoir(state.memory, batch, key_add, accept=context.first_pass)
        params = descend(state.params, learning_rate, grads)
        return OnlineState(params, (), memory), {"loss": value}

    return Online(init, observe, predictor(model))
