"""Sparse-La-MAML: learn which weights to learn (von Oswald et al., NeurIPS 2021, section 4)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jmeta.online.meta_replay import meta_replay
from jmeta.online.sgd_state import descend, require_positive
from jmeta.rules.masks import straight_through
from jmeta.types import BatchLoss, Model, Online, PyTree


def sparse_la_maml(
    model: Model,
    loss: BatchLoss,
    *,
    rate: float = 0.1,
    mask_learning_rate: float = 0.3,
    initial_score: float = 0.05,
    **options: Any,
) -> Online:
    """Run La-MAML with one fixed rate and a mask 1[m >= 0] in place of learned rates, in both loops.

        m <- m - mask_learning_rate * clip(dL / dm), straight through the mask
        theta <- theta - rate * 1[m >= 0] * clip(dL / d theta), with the new m

    A weight whose mask is 0 does not move at all, but its score has a gradient, so that it can recover.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      rate: step size of the inner steps and of the weights.
      mask_learning_rate: step size of the scores m.
      initial_score: initial m of every weight; if it is positive, all weights are plastic at first.
      **options: `glances`, `capacity`, `replay`, `clip_norm`, `meta_loss`, `ahead` of
        `jmeta.online.meta_replay.meta_replay`.

    Raises:
      ValueError: for settings out of range.
    """
    require_positive("sparse_la_maml", rate=rate)

    def rates(scores: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda m: jnp.asarray(rate, m.dtype) * straight_through(m), scores)

    def update(params: PyTree, scores: PyTree, grads: PyTree, score_grads: PyTree) -> tuple[PyTree, PyTree]:
        scores = descend(scores, mask_learning_rate, score_grads)
        return descend(params, rates(scores, params), grads), scores

    return meta_replay(
        "sparse_la_maml",
        model,
        loss,
        learned=lambda params: jax.tree.map(lambda leaf: jnp.full_like(leaf, initial_score), params),
        rates=rates,
        update=update,
        **options,
    )
