"""A minimum near a start, differentiated by the implicit function theorem instead of through its solver.

Rajeswaran et al., Meta-Learning with Implicit Gradients, NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jmeta.inner.gradient import inner_loop
from jmeta.rules.proximal_sgd import proximal_sgd
from jmeta.tree import by_module
from jmeta.types import Array, PyTree


def proximal_solve(
    loss_fn: Callable[[PyTree, Array], Array],
    start: PyTree,
    log_variance: dict[str, Array],
    steps: int,
    *,
    rate: float,
    cg_steps: int,
) -> PyTree:
    """Minimize loss + sum over modules m of |w_m - start_m|^2 / (2 sigma_m^2) by `steps` of `proximal_sgd`.

    The reverse pass solves (H + 1 / sigma^2) v = cotangent by `cg_steps` of conjugate gradients, H being the
    Hessian at the result; its memory does not grow with `steps`.

    Args:
      loss_fn: `(params, step [] int32) -> scalar`, the same function at every step.
      start: the initial parameters.
      log_variance: log sigma^2 [] of each module, by path (`jmeta.tree.modules`).
      steps, rate: number and rate of the solver's steps.
      cg_steps: number of steps of conjugate gradients.

    Returns:
      The parameters after the last step; differentiable in `start`, `log_variance` and everything that
      `loss_fn` closes over, as if they were the minimum.

    Raises:
      ValueError: for fewer than one step of either kind.
    """
    for name, count in (("steps", steps), ("cg_steps", cg_steps)):
        if count < 1:
            raise ValueError(f"proximal_solve: {name}={count}; expected at least 1")
    rule, first = proximal_sgd(rate), jnp.zeros((), jnp.int32)

    def slope(params: PyTree) -> PyTree:
        way = jax.tree.map(jnp.subtract, params, start)
        prior = by_module(lambda w, logs: jnp.exp(-logs) * w, way, log_variance)
        return jax.tree.map(jnp.add, jax.grad(loss_fn)(params, first), prior)

    def descend(_: Any, params: PyTree) -> PyTree:
        hyper = {"log_variance": log_variance}
        return inner_loop(loss_fn, rule, hyper, params, steps, order="first", remat="none")[0]

    def solve(hessian: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
        return lax.custom_linear_solve(
            hessian, b, lambda hessian, b: conjugate_gradients(hessian, b, cg_steps), symmetric=True
        )

    return lax.custom_root(slope, start, descend, solve)


def conjugate_gradients(matrix: Callable[[PyTree], PyTree], b: PyTree, steps: int) -> PyTree:
    """Approximate the solution x of matrix(x) = b, with symmetric `matrix`, by `steps` from 0."""

    def step(_: Array, state: tuple) -> tuple:
        x, residual, direction, size = state
        image = matrix(direction)
        length = _ratio(size, optax.tree.vdot(direction, image))
        x = jax.tree.map(lambda a, d: a + length * d, x, direction)
        residual = jax.tree.map(lambda a, d: a - length * d, residual, image)
        new = optax.tree.vdot(residual, residual)
        share = _ratio(new, size)
        direction = jax.tree.map(lambda r, d: r + share * d, residual, direction)
        return x, residual, direction, new

    zeros = jax.tree.map(jnp.zeros_like, b)
    return lax.fori_loop(0, steps, step, (zeros, b, b, optax.tree.vdot(b, b)))[0]


def _ratio(a: Array, b: Array) -> Array:
    """Divide, with 0 for a / 0: at the solution nothing moves any more."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))
