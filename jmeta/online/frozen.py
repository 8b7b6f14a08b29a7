"""A pre-trained adapter on a stream: it adapts anew to every batch, and its initial weights stay fixed.

"MAML" and "ANIL" of Caccia et al., Online Fast Adaptation and Knowledge Accumulation, NeurIPS 2020.
"""

from __future__ import annotations

from jmeta.online.episodic import (
    EpisodicState,
    adapt_to_batch,
    init_slow,
    outputs_of,
    score,
    zeros_like_result,
)
from jmeta.online.sgd_state import example_batch
from jmeta.types import Adapter, Batch, BatchLoss, Context, Key, Metrics, Online, PyTree


def frozen(adapter: Adapter, loss: BatchLoss) -> Online:
    """Predict each batch with phi_t = adapt(theta, D_t) of the batch before it; theta never changes.

    Works with any adapter. Before the first batch all fast weights are zero, and so are the logits.
    """

    def init(key: Key, x: PyTree) -> EpisodicState:
        slow = init_slow(adapter, None, key, x)
        fast = zeros_like_result(
            lambda: adapt_to_batch(adapter, slow.meta, slow.model_state, example_batch(x))
        )
        return EpisodicState(slow, fast, ())

    def observe(
        state: EpisodicState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[EpisodicState, Metrics]:
        metrics = score(loss, predict(state, batch.x), batch)
        fast = adapt_to_batch(adapter, state.slow.meta, state.slow.model_state, batch)
        return state._replace(fast=fast), metrics

    def predict(state: EpisodicState, x: PyTree) -> PyTree:
        return outputs_of(adapter, state.slow.meta, state.fast, state.slow.model_state, x)

    return Online(init, observe, predict)
