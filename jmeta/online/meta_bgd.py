"""MetaBGD: Bayesian gradient descent on consecutive batches learns the weights from which an adapter starts.

Caccia et al., Online Fast Adaptation and Knowledge Accumulation, NeurIPS 2020, after He et al., Task Agnostic
Continual Learning via Meta Learning, 2019. With `jmeta.adapters.metacog` as its adapter it is MetaCOG.

Deviations. With `metacog`, the score and the update use the adapted masks; the released code does neither.
"""

from __future__ import annotations

import jax.numpy as jnp

from jmeta.online.bgd import BeliefState, init_belief, update_belief
from jmeta.online.episodic import Previous, adapt_to_batch, no_previous, outputs_of, tree_where
from jmeta.online.sgd_state import require_positive
from jmeta.types import Adapter, Array, Batch, BatchLoss, Context, Key, Metrics, Online, PyTree


def meta_bgd(
    adapter: Adapter,
    loss: BatchLoss,
    *,
    learning_rate: float | Array = 10.0,
    deviation: float | Array = 0.01,
    samples: int = 5,
) -> Online:
    """Draw theta = mu + sigma * eps, adapt every draw to D_(t-1), and narrow the belief by the labels of D_t.

    Each draw is adapted anew; the released code adapts a draw of the step before. The arguments are those of
    `bgd`, with an adapter that does adapt. Nothing is learned from the first batch, which has no predecessor.
    Raises ValueError for numbers that are not positive.
    """
    require_positive("meta_bgd", learning_rate=learning_rate, deviation=deviation, samples=samples)

    def init(key: Key, x: PyTree) -> BeliefState:
        return BeliefState(*init_belief(adapter, deviation, key, x), no_previous(x))

    def observe(
        state: BeliefState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[BeliefState, Metrics]:
        support, seen = state.memory
        belief, metrics = update_belief(
            adapter, loss, state.belief, state.model_state, support, batch, key,
            learning_rate=learning_rate, samples=samples,
        )  # fmt: skip
        memory = Previous(batch, jnp.ones((), bool))
        return BeliefState(tree_where(seen, belief, state.belief), state.model_state, memory), metrics

    def predict(state: BeliefState, x: PyTree) -> PyTree:
        mean = state.belief.mean
        fast = adapt_to_batch(adapter, mean, state.model_state, state.memory.batch)
        return outputs_of(adapter, mean, fast, state.model_state, x)

    return Online(init, observe, predict)
