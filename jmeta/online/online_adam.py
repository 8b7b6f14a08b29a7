"""Online Adam: one step of the outer optimizer on every batch; after pre-training it is called fine-tuning.

Caccia et al., Online Fast Adaptation and Knowledge Accumulation, NeurIPS 2020.
"""

from __future__ import annotations

import jax
import optax

from jmeta.online.episodic import (
    EpisodicState,
    adapt_to_batch,
    episode_loss,
    init_slow,
    outputs_of,
    score,
    update_slow,
)
from jmeta.online.sgd_state import example_batch
from jmeta.types import Adapter, Array, Batch, BatchLoss, Context, Key, Metrics, Online, PyTree


def online_adam(adapter: Adapter, loss: BatchLoss, *, tx: optax.GradientTransformation) -> Online:
    """Update theta by a step of `tx` along the gradient of the loss on each batch.

    `adapter` takes no inner steps (`gradient_adapter(..., steps=0)`): it is one so that theta can come from
    an episodic outer loop.
    """

    def init(key: Key, x: PyTree) -> EpisodicState:
        return EpisodicState(init_slow(adapter, tx, key, x), (), ())

    def observe(
        state: EpisodicState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[EpisodicState, Metrics]:
        slow = state.slow

        def objective(meta: PyTree) -> tuple[Array, PyTree]:
            return episode_loss(adapter, loss, meta, slow.model_state, example_batch(batch.x), batch)

        grads, outputs = jax.grad(objective, has_aux=True)(slow.meta)
        return state._replace(slow=update_slow(tx, slow, grads)), score(loss, outputs, batch)

    def predict(state: EpisodicState, x: PyTree) -> PyTree:
        slow = state.slow
        fast = adapt_to_batch(adapter, slow.meta, slow.model_state, example_batch(x))
        return outputs_of(adapter, slow.meta, fast, slow.model_state, x)

    return Online(init, observe, predict)
