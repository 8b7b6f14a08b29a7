"""Online Adam: one step of the outer optimiser on every batch; after pre-training it is called fine-tuning.

Caccia et al., Online Fast Adaptation and Knowledge Accumulation, NeurIPS 2020.
"""

from __future__ import annotations

import jax
import optax

from jmeta.online.episodic import (
    BatchLoss,
    EpisodicState,
    adapt,
    begin,
    descend,
    episode,
    outputs_of,
    score,
)
from jmeta.online.state import example_batch
from jmeta.types import Adapter, Array, Batch, Key, Metrics, Online, PyTree


def online_adam(adapter: Adapter, loss: BatchLoss, *, tx: optax.GradientTransformation) -> Online:
    """theta <- theta - a step of `tx` on the gradient of the loss on each batch.

    `adapter` takes no inner steps (`gradient_adapter(..., steps=0)`): it is one so that theta can come from
    an episodic outer loop.
    """

    def init(key: Key, x: PyTree) -> EpisodicState:
        return EpisodicState(begin(adapter, tx, key, x), (), ())

    def observe(
        state: EpisodicState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[EpisodicState, Metrics]:
        def objective(meta: PyTree) -> tuple[Array, PyTree]:
            return episode(adapter, loss, state.slow, meta, example_batch(batch.x), batch)

        grads, outputs = jax.grad(objective, has_aux=True)(state.slow.meta)
        return state._replace(slow=descend(tx, state.slow, grads)), score(loss, outputs, batch)

    def predict(state: EpisodicState, x: PyTree) -> PyTree:
        fast = adapt(adapter, state.slow, state.slow.meta, example_batch(x))
        return outputs_of(adapter, state.slow, state.slow.meta, fast, x)

    return Online(init, observe, predict)
