"""A pre-trained adapter on a stream: it adapts anew to every batch, and what it starts from stays.

"MAML" and "ANIL" of Caccia et al., Online Fast Adaptation and Knowledge Accumulation, NeurIPS 2020.
"""

from __future__ import annotations

from jmeta.online.episodic import (
    BatchLoss,
    EpisodicState,
    adapt,
    begin,
    blank,
    outputs_of,
    score,
)
from jmeta.online.state import example_batch
from jmeta.types import Adapter, Array, Batch, Key, Metrics, Online, PyTree


def frozen(adapter: Adapter, loss: BatchLoss) -> Online:
    """phi_t = adapt(theta, D_t), which predicts the next batch; theta never changes.

    Any adapter will do. Before the first batch all fast weights are zero, and so are the logits.
    """

    def init(key: Key, x: PyTree) -> EpisodicState:
        slow = begin(adapter, None, key, x)
        fast = blank(lambda: adapt(adapter, slow, slow.meta, example_batch(x)))
        return EpisodicState(slow, fast, ())

    def observe(
        state: EpisodicState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[EpisodicState, Metrics]:
        measured = score(loss, predict(state, batch.x), batch)
        return state._replace(fast=adapt(adapter, state.slow, state.slow.meta, batch)), measured

    def predict(state: EpisodicState, x: PyTree) -> PyTree:
        return outputs_of(adapter, state.slow, state.slow.meta, state.fast, x)

    return Online(init, observe, predict)
