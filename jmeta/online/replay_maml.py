"""Meta-replay with a fixed inner learning rate: "C-MAML" of La-MAML's code (Gupta et al., NeurIPS 2020)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jmeta.online.meta_replay import meta_replay
from jmeta.online.sgd_state import descend, require_positive
from jmeta.types import BatchLoss, Model, Online, PyTree


def replay_maml(
    model: Model,
    loss: BatchLoss,
    *,
    inner_rate: float = 0.1,
    learning_rate: float = 0.1,
    **options: Any,
) -> Online:
    """Take inner steps of size `inner_rate`, then update theta <- theta - learning_rate * clip(dL / d theta).

    Do not confuse it with the continual MAML of OSAKA, which has no replay. The `options` are `glances`,
    `capacity`, `replay`, `clip_norm`, `meta_loss`, `ahead` of `jmeta.online.meta_replay.meta_replay`. Raises
    ValueError for settings out of range.
    """
    require_positive("replay_maml", inner_rate=inner_rate, learning_rate=learning_rate)

    def rates(learned: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, inner_rate), params)

    def update(params: PyTree, learned: PyTree, grads: PyTree, _: PyTree) -> tuple[PyTree, PyTree]:
        return descend(params, learning_rate, grads), learned

    return meta_replay(
        "replay_maml",
        model,
        loss,
        learned=lambda params: (),
        rates=rates,
        update=update,
        **options,
    )
