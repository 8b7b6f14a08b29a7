"""Gradient descent in a learned geometry, by matrices along the axes of each gradient array.

Park & Oliva, Meta-Curvature, NeurIPS 2019.

Deviations. Which of its matrices the paper's MC1 leaves out is not known to us: `modes` says which there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key, PyTree, Rule

Mode = Literal["filter", "in", "out"]


def meta_curvature(
    rate: float | Array,
    *,
    modes: Sequence[Mode] = ("filter", "in", "out"),
    steps: int | None = None,
    largest: int | None = None,
) -> Rule:
    """Build w <- w - rate * MC(g), where MC multiplies a gradient by a learned matrix along each of its axes.

    MC(g)[f', i', o'] = sum over f, i, o of M_filter[f', f] M_in[i', i] g[f, i, o] M_out[o, o'] for a
    convolution's kernel [height, width, in, out], whose places are f; M_in g M_out for a dense kernel
    [in, out]; and an elementwise product with a learned vector for a bias [out]. All start at the identity.

    Args:
      rate: the learning rate, fixed.
      modes: the axes that have a matrix.
      steps: number of steps that have matrices of their own, later ones share the last's; None shares one
        set.
      largest: longest axis that has a matrix; of a longer one each entry has a factor instead, a diagonal
        matrix. None for no limit.

    Returns:
      A `Rule` without carry, with hyper, for each kernel, {"filter", "in", "out"} as far as it has them, each
      [n, n], or [n] if diagonal; for each bias a vector. With `steps` there is a leading axis [step].

    Raises:
      ValueError: for unknown, repeated or no modes, or numbers below 1; at `init`, for an array that is no
        kernel and no bias.
    """
    modes = tuple(modes)
    if not modes or len(set(modes)) < len(modes) or set(modes) - set(get_args(Mode)):
        raise ValueError(
            f"meta_curvature: modes={','.join(modes)}; expected one or more of {', '.join(get_args(Mode))}"
        )
    for name, count in (("steps", steps), ("largest", largest)):
        if count is not None and count < 1:
            raise ValueError(f"meta_curvature: {name}={count}; expected at least 1, or None")

    def identity(size: int, dtype: jnp.dtype) -> Array:
        whole = largest is None or size <= largest
        matrix = jnp.eye(size, dtype=dtype) if whole else jnp.ones(size, dtype)
        return matrix if steps is None else jnp.repeat(matrix[None], steps, axis=0)

    def factors(leaf: Array) -> PyTree:
        if leaf.ndim == 1:
            ones = jnp.ones_like(leaf)
            return ones if steps is None else jnp.repeat(ones[None], steps, axis=0)
        if leaf.ndim not in (2, 4):
            raise ValueError(
                f"meta_curvature: a parameter of shape {leaf.shape}; expected biases [out] and kernels "
                "[in, out] or [height, width, in, out]"
            )
        sizes = {"in": leaf.shape[-2], "out": leaf.shape[-1]}
        sizes |= {"filter": leaf.shape[0] * leaf.shape[1]} if leaf.ndim == 4 else {}
        return {mode: identity(size, leaf.dtype) for mode, size in sizes.items() if mode in modes}

    def init(key: Key, params: PyTree) -> PyTree:
        return jax.tree.map(factors, params)

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        if steps is not None:
            hyper = jax.tree.map(lambda m: m[jnp.minimum(step, steps - 1)], hyper)
        return jax.tree.map(lambda g, own: -rate * _transform(g, own), grads, hyper), carry

    return Rule(init, lambda hyper, params, key: (), update)


def _transform(g: Array, factors: PyTree) -> Array:
    if g.ndim == 1:
        return factors * g
    flat = g.reshape(-1, *g.shape[-2:])  # [height width, in, out]; a dense kernel is [1, in, out]
    for mode, axis in (("filter", 0), ("in", 1), ("out", 2)):
        matrix = factors.get(mode)
        if matrix is None:
            continue
        if matrix.ndim == 1:
            flat = flat * jnp.expand_dims(matrix, [other for other in range(3) if other != axis])
        else:
            # M_out multiplies from the right
            product = jnp.tensordot(matrix.T if mode == "out" else matrix, flat, (1, axis))
            flat = jnp.moveaxis(product, 0, axis)
    return flat.reshape(g.shape)
