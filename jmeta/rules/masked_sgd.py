"""Gradient descent with a learned mask, or a learned positive rate, for every coordinate (sparse-MAML).

von Oswald et al., Learning where to learn, NeurIPS 2021, equations 4 and 5, and their released code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jmeta.rules.masks import straight_through, straight_through_relu
from jmeta.types import Array, Key, PyTree, Rule

MaskStart = Literal["he_uniform", "uniform"]
RateStart = Literal["constant", "uniform"]
_RATES = (0.005, 0.1)  # of Meta-SGD


def masked_sgd(
    rate: float | Array, *, factor: float = 1.0, start: MaskStart = "he_uniform", shift: float = 0.0
) -> Rule:
    """Build w <- w - rate * 1[m >= 0] * g, with a meta-learned score m for every entry of w as `hyper`.

    The mask's derivative in m is `factor`, so that the scores of a first-order inner loop have the gradient
    - rate * factor * G * sum_k g_k, G being the outer gradient at the adapted weights (eq. 5).

    Args:
      rate: the learning rate where the mask is open.
      factor: the straight-through derivative of the mask, 1 in the paper and 1/2 in the released code.
      start: initial scores, less the mean of their array, so that about half of it is frozen: "he_uniform" in
        +-sqrt(6 / fan in) for kernels and in +-1/2 for vectors, as the released code has for its ConvNet, or
        "uniform" in +-1/2 for all, as for its ResNet-12.
      shift: added to the initial scores; with "uniform" the share 1/2 - `shift` of each array is frozen.

    Raises:
      ValueError: for an unknown `start`.
    """
    _require("masked_sgd", start, MaskStart)

    def draw(key: Key, leaf: Array) -> Array:
        he = start == "he_uniform" and leaf.ndim > 1
        bound = (6 / (leaf.size / leaf.shape[-1])) ** 0.5 if he else 0.5
        scores = jax.random.uniform(key, leaf.shape, leaf.dtype, -bound, bound)
        return scores + jnp.broadcast_to(shift - scores.mean(), leaf.shape)

    return _by_scores(draw, lambda scores: jnp.asarray(rate, scores.dtype) * straight_through(scores, factor))


def rectified_sgd(rate: float | Array, *, start: RateStart = "constant") -> Rule:
    """Build w <- w - max(m, 0) * g, with a meta-learned m for every entry of w as `hyper`.

    The rectifier's derivative is that of the identity, so that a rate that was shut off can come back
    (sparse-ReLU-MAML). Initially m is `rate` ("constant") or uniform in 0.005 .. 0.1, as in Meta-SGD
    ("uniform"). Raises ValueError for another `start`.
    """
    _require("rectified_sgd", start, RateStart)
    return _by_scores(_rates(rate, start), straight_through_relu)


def exponential_sgd(rate: float | Array, *, start: RateStart = "constant") -> Rule:
    """Build w <- w - exp(m) * g, with a meta-learned m for every entry of w as `hyper` (exp-MAML).

    No rate is ever 0. The paper leaves its initial values open: exp(m) is `rate` ("constant") or uniform in
    0.005 .. 0.1 ("uniform"). Raises ValueError for another `start`.
    """
    _require("exponential_sgd", start, RateStart)
    draw = _rates(rate, start)
    return _by_scores(lambda key, leaf: jnp.log(draw(key, leaf)), jnp.exp)


def _rates(rate: float | Array, start: RateStart) -> Callable[[Key, Array], Array]:
    if start == "constant":
        return lambda key, leaf: jnp.full(leaf.shape, rate, leaf.dtype)
    return lambda key, leaf: jax.random.uniform(key, leaf.shape, leaf.dtype, *_RATES)


def _require(rule: str, start: str, choices: Any) -> None:
    if start not in get_args(choices):
        known = ", ".join(map(repr, get_args(choices)))
        raise ValueError(f"{rule}: start={start!r}; expected one of {known}")


def _by_scores(draw: Callable[[Key, Array], Array], rates: Callable[[Array], Array]) -> Rule:
    """Build the rule with a rate of each score; `draw` makes the initial scores of each parameter array."""

    def init(key: Key, params: PyTree) -> PyTree:
        leaves = jax.tree.leaves(params)
        keys = jax.random.split(key, len(leaves))
        scores = [draw(k, leaf) for k, leaf in zip(keys, leaves)]
        return jax.tree.unflatten(jax.tree.structure(params), scores)

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        return jax.tree.map(lambda scores, g: -rates(scores) * g, hyper, grads), carry

    return Rule(init, lambda hyper, params, key: (), update)
