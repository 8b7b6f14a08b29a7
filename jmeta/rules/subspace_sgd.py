"""Gradient descent on randomly chosen units, whose odds are learned (MT-net).

Lee & Choi, Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace, ICML 2018.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jmeta.tree import by_module, modules
from jmeta.types import Array, Key, PyTree, Rule


def subspace_sgd(
    rate: float | Array, *, per: Literal["unit", "weight"] = "unit", temperature: float = 1.0
) -> Rule:
    """Build w <- w - rate * M g, with a random M of zeros and ones and a learned score for each of its odds.

    An entry is 1 with probability sigmoid(score). Its derivative in the score is that of the Gumbel-softmax
    of two categories, s (1 - s) / temperature with s = sigmoid((score + noise) / temperature), whose rounding
    the entry is. Without a key, as at a test that draws nothing, the entry is 1[score >= 0].

    Args:
      rate: the learning rate, fixed.
      per: "unit" draws one entry for each output of a layer, which its kernel [..., out] and its bias [out]
        share, once a task; scores start at 0. "weight" draws one for each weight, anew at each step; scores
        start normal with deviation 0.01.
      temperature: of the Gumbel-softmax.

    Returns:
      A `Rule` with hyper {layer: scores [out]}, by the layer's path, or scores like the parameters.

    Raises:
      ValueError: for an unknown `per` or a temperature that is not positive; at `init`, for a layer whose
        arrays differ in their last axis.
    """
    if per not in ("unit", "weight"):
        raise ValueError(f"subspace_sgd: per={per!r}; expected 'unit' or 'weight'")
    if not temperature > 0:
        raise ValueError(f"subspace_sgd: temperature={temperature}; expected a positive number")

    def init(key: Key, params: PyTree) -> PyTree:
        if per == "unit":
            return {layer: _scores(layer, leaves) for layer, leaves in modules(params).items()}
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        scores = [0.01 * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves)]
        return jax.tree.unflatten(structure, scores)

    def masks(scores: PyTree, key: Key | None) -> PyTree:
        leaves, structure = jax.tree.flatten(scores)
        keys = [None] * len(leaves) if key is None else jax.random.split(key, len(leaves))
        drawn = [_mask(leaf, k, temperature) for leaf, k in zip(leaves, keys)]
        return jax.tree.unflatten(structure, drawn)

    def start(hyper: PyTree, params: PyTree, key: Key | None) -> PyTree:
        return masks(hyper, key) if per == "unit" else key

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        if per == "unit":
            return by_module(lambda g, mask: -rate * jnp.broadcast_to(mask, g.shape) * g, grads, carry), carry
        drawn = masks(hyper, None if carry is None else jax.random.fold_in(carry, step))
        return jax.tree.map(lambda mask, g: -rate * mask * g, drawn, grads), carry

    return Rule(init, start, update)


def _scores(layer: str, leaves: list[Array]) -> Array:
    """Make the scores [out] of a layer with these arrays [..., out]."""
    sizes = {leaf.shape[-1:] for leaf in leaves}
    if len(sizes) != 1 or () in sizes:
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(
            f"subspace_sgd: the arrays of {layer} are {shapes}; expected one last axis, [..., out]"
        )
    return jnp.zeros(sizes.pop(), leaves[0].dtype)


def _mask(scores: Array, key: Key | None, temperature: float) -> Array:
    """Draw a mask of zeros and ones with the derivative of the soft one; without a key take the likelier."""
    # The difference of two Gumbel variables is logistic.
    noise = 0 if key is None else jax.random.logistic(key, scores.shape, scores.dtype)
    logits = (scores + noise) / temperature
    soft = jax.nn.sigmoid(logits)
    return (logits >= 0).astype(scores.dtype) + (soft - jax.lax.stop_gradient(soft))
