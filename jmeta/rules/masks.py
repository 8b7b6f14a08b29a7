"""Masks and rates learned by straight-through gradients (von Oswald et al., NeurIPS 2021).

Deviations. A mask is 1 at a score of 0; for sparse-La-MAML the paper writes m > 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jmeta.types import Array, Metrics, PyTree


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def straight_through(scores: Array, factor: float = 1.0) -> Array:
    """Compute the mask 1[`scores` >= 0] of scores [...], in their dtype, with a derivative of `factor`.

    A coordinate that is masked out still has a gradient, and so can come back (sparse-MAML, eq. 5, whose
    derivative is that of the identity; the released code has a factor of 1/2).
    """
    return (scores >= 0).astype(scores.dtype)


@jax.custom_jvp
def straight_through_relu(scores: Array) -> Array:
    """Compute max(`scores`, 0) with the derivative of the identity (sparse-ReLU-MAML)."""
    return jax.nn.relu(scores)


straight_through.defjvp(
    lambda factor, primals, tangents: (straight_through(*primals, factor), factor * tangents[0])
)
straight_through_relu.defjvp(lambda primals, tangents: (straight_through_relu(*primals), *tangents))


def sparsity(scores: Array) -> Array:
    """Compute the share [] of masks or rates at or below zero, which freeze their weights.

    A mask at exactly 0 lets its weight move; it is counted all the same, as a learned number is never there.
    """
    return jnp.mean(scores <= 0)


def sparsity_by_layer(scores: PyTree) -> dict[str, Array]:
    """Compute `sparsity` of masks or rates {layer: {"kernel", "bias"}}, layer by layer and overall.

    Returns `sparsity/W1`, `sparsity/b1`, ... from the input on, with the layer `head` last, and `sparsity` of
    all entries together; each []. Layers without a mask (None) are skipped.
    """
    masked = [name for name, layer in scores.items() if layer.get("kernel") is not None]
    layers = sorted(masked, key=lambda name: (name == "head", name))
    report = {}
    for number, layer in enumerate(layers, 1):
        report[f"sparsity/W{number}"] = sparsity(scores[layer]["kernel"])
        report[f"sparsity/b{number}"] = sparsity(scores[layer]["bias"])
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(scores)])
    return report | {"sparsity": sparsity(flat)}


def by_array(name: str, tree: PyTree, measure: Callable[[Array], Array]) -> Metrics:
    """Measure each array of a tree by a mean over its entries, and all entries together.

    Returns {`name`/path: [] of each array, `name`: [] of all}; arrays of None are skipped.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    values = [measure(leaf) for _, leaf in leaves]
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    total = sum(value * leaf.size for value, (_, leaf) in zip(values, leaves))
    return {f"{name}/{path}": value for path, value in zip(paths, values)} | {
        name: total / sum(leaf.size for _, leaf in leaves)
    }
