"""Sparse-MAML+: each task draws its masks from a learned distribution (von Oswald et al., NeurIPS 2021).

Deviations. The paper's Gaussian is "low-dimensional", and the released code's has 1,600 dimensions: a
setting. As in the released code the masks of hidden kernels are drawn, those of the classifier and of batch
normalization are learned directly, and the biases of the hidden layers adapt without a mask.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.adapters.reporting import numbers_of
from jmeta.adapters.sparse_maml import first_order, is_adapted
from jmeta.models.norm_policy import Norm
from jmeta.rules.coordinates import uniform
from jmeta.rules.masked_sgd import MaskStart, masked_sgd
from jmeta.rules.masks import by_array, sparsity
from jmeta.tree import merge
from jmeta.types import Adapter, Array, Batch, BatchLoss, Key, Metrics, Model, PyTree


def sparse_maml_plus(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 35,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    adapt_norm: bool = True,
    norm: Norm = "batch",
    mask_dimension: int = 64,
    mask_factor: float = 1.0,
    mask_start: MaskStart = "he_uniform",
    mask_shift: float = 0.0,
) -> Adapter:
    """Adapt as `sparse_maml`, with scores of the masks that a task draws once, at test too.

        z = mu + sigma * e,  e ~ N(0, 1),  scores of the hidden kernels = W z + b + mask_shift

    The learned parts are meta["rule"]: {"generator": {"mean" and "deviation" [mask_dimension], initially 0
    and 1, "kernel" W and "bias" b, uniform in +-1/sqrt(mask_dimension)}, "scores" of the other masks}.

    Args:
      mask_dimension: dimension of the Gaussian.
      others: as for `sparse_maml`; the hidden kernels are the arrays called "kernel" outside the layer
        "head", or all of them if there are no others.

    Returns:
      An `Adapter` that draws at test; without a key it takes the scores of the mean. `info` has "sparsity" of
      the drawn masks, in training of each array too, and "mask_deviation", the mean of |sigma|.

    Raises:
      ValueError: for a dimension below 1; at `init`, for a network without an array called "kernel".
    """
    if mask_dimension < 1:
        raise ValueError(f"sparse_maml_plus: mask_dimension={mask_dimension}; expected at least 1")
    rule = masked_sgd(inner_lr, factor=mask_factor, start=mask_start, shift=mask_shift)
    adapter = first_order(
        model, loss, rule, inner_steps, test_inner_steps, test_loss, adapt_norm=adapt_norm, norm=norm
    )

    return _drawing(adapter, mask_dimension, mask_shift, is_adapted(adapt_norm))


def _drawing(adapter: Adapter, dimension: int, shift: float, adapts: Callable[[str], bool]) -> Adapter:
    """Give sparse-MAML, with scores as its meta["rule"], scores that each task draws."""

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_adapter, key_generator = jax.random.split(key)
        meta, state = adapter.init(key_adapter, x)
        kernels, biases = _hidden(meta["params"], adapts)
        flat, _ = ravel_pytree(_select(meta["params"], kernels))
        scores = _select(meta["rule"], kernels | biases, inside=False)
        generator = _generator(key_generator, dimension, flat.size, flat.dtype)
        return meta | {"rule": {"generator": generator, "scores": scores}}, state

    def draw(meta: PyTree, key: Key | None) -> PyTree:
        """Draw a task's scores, in the places of the adapted parameters; None for a bias without a mask."""
        kernels, _ = _hidden(meta["params"], adapts)
        generator, scores = meta["rule"]["generator"], meta["rule"]["scores"]
        z = generator["mean"]
        if key is not None:
            z = z + generator["deviation"] * jax.random.normal(key, z.shape, z.dtype)
        _, unravel = ravel_pytree(_select(meta["params"], kernels))
        return merge(unravel(z @ generator["kernel"] + generator["bias"] + shift), scores)

    def learned(meta: PyTree, scores: PyTree) -> Metrics:
        deviation = jnp.abs(meta["rule"]["generator"]["deviation"]).mean()
        return by_array("sparsity", scores, sparsity) | {"mask_deviation": deviation}

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key | None, *, train: bool
    ) -> tuple[PyTree, PyTree, Metrics]:
        key_mask, key_adapt = (None, None) if key is None else jax.random.split(key)
        scores = draw(meta, key_mask)
        _, biases = _hidden(meta["params"], adapts)
        opened = jax.tree.map(jnp.ones_like, _select(meta["params"], biases))
        sparse = meta | {"rule": merge(scores, opened)}
        fast, state, info = adapter.adapt(sparse, state, support, key_adapt, train=train)
        return fast, state, info | numbers_of(learned(meta, scores), train)

    with_norm = adapter.with_norm and functools.cache(
        lambda norm: _drawing(adapter.with_norm(norm), dimension, shift, adapts)  # type: ignore[misc]
    )
    return adapter._replace(
        init=init,
        adapt=adapt,
        draws_at_test=True,
        with_norm=with_norm,
        learned=lambda meta: learned(meta, draw(meta, None)),
    )


def _generator(key: Key, dimension: int, scores: int, dtype: jnp.dtype) -> dict[str, Array]:
    key_kernel, key_bias = jax.random.split(key)
    bound = dimension**-0.5
    return {
        "mean": jnp.zeros(dimension, dtype),
        "deviation": jnp.ones(dimension, dtype),
        "kernel": uniform(key_kernel, (dimension, scores), bound, dtype),
        "bias": uniform(key_bias, (scores,), bound, dtype),
    }


def _hidden(params: PyTree, adapts: Callable[[str], bool]) -> tuple[frozenset[str], frozenset[str]]:
    """List the paths of the hidden kernels, and of the biases beside them."""
    paths = [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    kernels = [path for path in paths if path.rpartition("/")[2] == "kernel" and adapts(path)]
    if not kernels:
        raise ValueError(
            f"sparse_maml_plus: no array of the network is called kernel: {', '.join(paths)}; its masks are "
            "drawn"
        )
    hidden = [path for path in kernels if path.partition("/")[0] != "head"] or kernels
    biases = {path.rpartition("/")[0] + "/bias" for path in hidden}
    return frozenset(hidden), frozenset(biases.intersection(paths))


def _select(tree: PyTree, paths: frozenset[str], inside: bool = True) -> PyTree:
    """Replace by None every leaf whose path is not one of `paths`; or, not `inside`, whose path is."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if (_path(path) in paths) == inside else None, tree
    )


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
