"""GEM's projection: the closest gradient that does not raise the loss on any past task."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.types import Array, PyTree


class Rows(NamedTuple):
    """Gradients of several tasks as the rows of a matrix A that need not be stored.

    `along(gradient) -> A g` [task], `gram() -> A A'` [task, task] and `combine(v) -> A'v`, a tree like the
    gradient, for v [task].
    """

    along: Callable[[PyTree], Array]
    gram: Callable[[], Array]
    combine: Callable[[Array], PyTree]


def rows_of(matrix: Array, unravel: Callable[[Array], PyTree]) -> Rows:
    """Make `Rows` of a matrix [task, parameter] that is stored; `unravel` makes a tree of one row."""
    return Rows(
        lambda gradient: matrix @ ravel_pytree(gradient)[0],
        lambda: matrix @ matrix.T,
        lambda v: unravel(v @ matrix),
    )


def project(
    gradient: PyTree, past: Rows, active: Array, *, margin: Array | float = 0.0, ridge: float = 1e-3
) -> PyTree:
    """Find the closest gradient that does not conflict with any past gradient.

    Solves the dual of eq. 11 of Lopez-Paz & Ranzato (2017), min_v v'(A A' + ridge) v / 2 + (A g)'v over
    v >= margin with the past gradients as rows of A, and returns g + A'v. If no product A g is negative, the
    gradient is returned unchanged, whatever the margin, as in the published code.

    Args:
      gradient: g, any tree.
      past: A, a row for each task.
      active: [task] bool, the rows that count.
      margin: least multiplier of each active row.
      ridge: added to the diagonal of A A'; the default is the published code's.
    """
    products = jnp.where(active, past.along(gradient), 0)

    def projected() -> PyTree:
        gram = jnp.where(active[:, None] & active[None, :], past.gram(), 0)
        gram = gram + ridge * jnp.eye(active.size, dtype=gram.dtype)
        least = jnp.where(active, margin, 0).astype(gram.dtype)
        # with v = least + u the constraint is u >= 0; an inactive row has u = 0
        above = nonnegative_quadratic(gram, products + gram @ least)
        return jax.tree.map(jnp.add, gradient, past.combine(above + least))

    return jax.lax.cond((products < 0).any(), projected, lambda: gradient)


def nonnegative_quadratic(matrix: Array, linear: Array) -> Array:
    """Minimize u'Mu / 2 + q'u over u >= 0 [n], for M [n, n] positive definite and q [n].

    Block principal pivoting (Portugal, Judice & Vicente 1994): the coordinates of the wrong sign change
    sides, all at once while their number falls and one at a time when it does not, which reaches the solution
    after finitely many exact solves.
    """
    size = linear.shape[0]
    tolerance = 10 * jnp.finfo(matrix.dtype).eps
    slack = tolerance * jnp.maximum(jnp.abs(linear).max(), 1e-30)
    identity = jnp.eye(size, dtype=matrix.dtype)

    def solve(free: Array) -> Array:
        both = free[:, None] & free[None, :]
        return jnp.linalg.solve(jnp.where(both, matrix, identity), jnp.where(free, -linear, 0))

    def wrong_sides(free: Array, u: Array) -> Array:
        slope = matrix @ u + linear
        return jnp.where(free, u < 0, slope < -slack)

    def unfinished(carry: tuple) -> Array:
        _, wrong, _, _, _, count = carry
        return wrong.any() & (count < 10 * size + 20)

    def pivot(carry: tuple) -> tuple:
        free, wrong, _, fewest, patience, count = carry
        number = wrong.sum()
        better = number < fewest
        patience = jnp.where(better, 3, patience - 1)
        last = size - 1 - jnp.argmax(wrong[::-1])
        one = jnp.arange(size) == last
        free = free ^ jnp.where(better | (patience >= 0), wrong, wrong & one)
        u = solve(free)
        return free, wrong_sides(free, u), u, jnp.minimum(number, fewest), patience, count + 1

    free = jnp.zeros(size, bool)
    u = jnp.zeros_like(linear)
    start = (free, wrong_sides(free, u), u, jnp.asarray(size + 1), jnp.asarray(3), jnp.asarray(0))
    return jnp.maximum(jax.lax.while_loop(unfinished, pivot, start)[2], 0)
