"""Gradient descent with a learned mask on the coordinates (sparse-MAML).

von Oswald et al., Learning where to learn, NeurIPS 2021, equations 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jmeta.rules.masks import straight_through, straight_through_relu
from jmeta.types import Array, Key, PyTree, Rule


def masked_sgd(rate: float | Array) -> Rule:
    """Build w <- w - rate * 1[m >= 0] * g, with a meta-learned score m for every entry of w as `hyper`.

    The mask's derivative in m is that of the identity, so that the scores of a first-order inner loop have
    the gradient - rate * G * sum_k g_k, G being the outer gradient at the adapted weights (eq. 5). Scores
    start as in the released code: uniform in +-sqrt(6 / fan in) for kernels and in +-1/2 for vectors, less
    their mean, so that about half of each array is frozen.
    """

    def start(key: Key, leaf: Array) -> Array:
        bound = (6 / (leaf.size / leaf.shape[-1])) ** 0.5 if leaf.ndim > 1 else 0.5
        scores = jax.random.uniform(key, leaf.shape, leaf.dtype, -bound, bound)
        return scores - jnp.broadcast_to(scores.mean(), leaf.shape)

    return _by_scores(start, lambda scores: jnp.asarray(rate, scores.dtype) * straight_through(scores))


def rectified_sgd(rate: float | Array) -> Rule:
    """Build w <- w - max(m, 0) * g, with a meta-learned m for every entry of w as `hyper`, initially `rate`.

    The rectifier's derivative is that of the identity, so that a rate that was shut off can come back
    (sparse-ReLU-MAML).
    """
    return _by_scores(lambda key, leaf: jnp.full(leaf.shape, rate, leaf.dtype), straight_through_relu)


def _by_scores(start: Callable[[Key, Array], Array], rates: Callable[[Array], Array]) -> Rule:
    """Build the rule with a rate of each score; `start` draws the scores of each parameter array."""

    def init(key: Key, params: PyTree) -> PyTree:
        leaves = jax.tree.leaves(params)
        keys = jax.random.split(key, len(leaves))
        scores = [start(k, leaf) for k, leaf in zip(keys, leaves)]
        return jax.tree.unflatten(jax.tree.structure(params), scores)

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        return jax.tree.map(lambda scores, g: -rates(scores) * g, hyper, grads), carry

    return Rule(init, lambda hyper, params, key: (), update)
