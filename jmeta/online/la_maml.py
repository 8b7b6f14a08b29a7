"""La-MAML: a learning rate for every weight, learned by looking ahead (Gupta et al., NeurIPS 2020)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jmeta.online.meta_replay import meta_replay
from jmeta.online.sgd_state import descend, require_positive
from jmeta.types import BatchLoss, Model, Online, PyTree


def la_maml(
    model: Model,
    loss: BatchLoss,
    *,
    initial_rate: float = 0.15,
    rate_learning_rate: float = 0.3,
    learning_rate: float | None = None,
    **options: Any,
) -> Online:
    """Take inner steps with rates max(alpha, 0), then update alpha, and then the weights.

        alpha <- alpha - rate_learning_rate * clip(dL / d alpha)
        theta <- theta - max(alpha, 0) * clip(dL / d theta)      asynchronous: with the new alpha
        theta <- theta - learning_rate * clip(dL / d theta)      synchronous (`la_maml_sync`)

    A rate that is not positive has no gradient, and freezes its weight from then on.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      initial_rate: initial alpha of every weight.
      rate_learning_rate: step size of alpha.
      learning_rate: step size of the weights in the synchronous update; None for the asynchronous one.
      **options: `glances`, `capacity`, `replay`, `clip_norm`, `meta_loss`, `ahead` of
        `jmeta.online.meta_replay.meta_replay`.

    Raises:
      ValueError: for settings out of range.
    """
    require_positive("la_maml", initial_rate=initial_rate)
    if learning_rate is not None:
        require_positive("la_maml", learning_rate=learning_rate)

    def update(params: PyTree, alpha: PyTree, grads: PyTree, alpha_grads: PyTree) -> tuple[PyTree, PyTree]:
        alpha = descend(alpha, rate_learning_rate, alpha_grads)
        rates = jax.tree.map(jax.nn.relu, alpha) if learning_rate is None else learning_rate
        return descend(params, rates, grads), alpha

    return meta_replay(
        "la_maml",
        model,
        loss,
        learned=lambda params: jax.tree.map(lambda leaf: jnp.full_like(leaf, initial_rate), params),
        rates=lambda alpha, params: jax.tree.map(jax.nn.relu, alpha),
        update=update,
        **options,
    )


def la_maml_sync(model: Model, loss: BatchLoss, *, learning_rate: float = 0.1, **options: Any) -> Online:
    """Run synchronous La-MAML: the weights move by one `learning_rate`, and the learned rates serve the inner
    steps alone. `options` are those of `la_maml`."""
    return la_maml(model, loss, learning_rate=learning_rate, **options)
