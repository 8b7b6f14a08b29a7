"""MetaBGD: what an adapter starts from is learned by Bayesian gradient descent on consecutive batches.

Caccia et al., Online Fast Adaptation and Knowledge Accumulation, NeurIPS 2020, after He et al., Task Agnostic
Continual Learning via Meta Learning, 2019. With `jmeta.adapters.metacog` as its adapter it is MetaCOG.
"""

from __future__ import annotations

import jax.numpy as jnp

from jmeta.online.bgd import learn, uncertain
from jmeta.online.episodic import (
    BatchLoss,
    EpisodicState,
    Previous,
    adapt,
    begin,
    choose,
    nothing_before,
    outputs_of,
)
from jmeta.online.state import require
from jmeta.types import Adapter, Array, Batch, Key, Metrics, Online, PyTree


def meta_bgd(
    adapter: Adapter,
    loss: BatchLoss,
    *,
    rate: float | Array = 10.0,
    deviation: float | Array = 0.01,
    samples: int = 5,
) -> Online:
    """theta = mu + sigma * eps: every draw adapts to D_(t-1) and predicts D_t; its labels narrow the belief.

    Each draw is adapted anew, where the released code adapts one of the step before. The arguments are those
    of `bgd`, with an adapter that does adapt. The first batch teaches nothing, having none before it. Raises
    ValueError for numbers that are not positive.
    """
    require("meta_bgd", rate=rate, deviation=deviation, samples=samples)

    def init(key: Key, x: PyTree) -> EpisodicState:
        return EpisodicState(uncertain(begin(adapter, None, key, x), deviation), (), nothing_before(x))

    def observe(
        state: EpisodicState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[EpisodicState, Metrics]:
        support, seen = state.memory
        slow, measured = learn(adapter, loss, state.slow, support, batch, key, rate=rate, samples=samples)
        memory = Previous(batch, jnp.ones((), bool))
        return EpisodicState(choose(seen, slow, state.slow), (), memory), measured

    def predict(state: EpisodicState, x: PyTree) -> PyTree:
        fast = adapt(adapter, state.slow, state.slow.meta, state.memory.batch)
        return outputs_of(adapter, state.slow, state.slow.meta, fast, x)

    return Online(init, observe, predict)
