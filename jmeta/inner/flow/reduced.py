"""The gradient flow of a linear classifier in the space of its examples.

With features X [shot, feature] the gradient of the mean cross-entropy is a sum of one outer product for each
example, so the weights never leave W(t) = W0 - s(t)^T X and only s [shot, way] moves:
ds/dt = (softmax(Z0 - G s) - Y) / M - ridge s, with G = X X^T and Z0 = X W0^T (COMLN, section 4.1 and
App. B.1). Nothing of the features' size is needed along the trajectory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.losses import ABSENT
from jmeta.types import Array


class Reduced(NamedTuple):
    """The data of a reduced flow.

    `gram` [shot, shot] of the features; `logits` [shot, way] of the initial classifier; `target` [shot, way],
    the labels over the number of examples; `mass` [shot], their row sums; `ridge` [].
    """

    gram: Array
    logits: Array
    target: Array
    mass: Array
    ridge: Array


def targets(labels: Array, mask: Array | None, way_mask: Array | None) -> Array:
    """Divide labels [shot, way] by the number of real examples.

    Padded examples (`mask` [shot] 0) and absent ways (`way_mask` [way] false) become 0.
    """
    # all [shot, way]
    present = jnp.ones_like(labels) if mask is None else jnp.broadcast_to(mask[:, None], labels.shape)
    weight = present.astype(labels.dtype)
    if way_mask is not None:
        present = jnp.where(way_mask[None, :], weight, 0)
    return jnp.where(present > 0, labels, 0) * weight / jnp.maximum(weight[:, 0].sum(), 1)


def mask_ways(logits: Array, way_mask: Array | None) -> Array:
    """Take absent ways (`way_mask` [way] false) out of the softmax of logits [shot, way]."""
    if way_mask is None:
        return logits
    return jnp.where(way_mask[None, :], logits, jnp.asarray(ABSENT, logits.dtype))


def reduce(w0: Array, features: Array, target: Array, ridge: Array, way_mask: Array | None) -> Reduced:
    """Reduce the flow of classifier `w0` [way, feature] on `features` [shot, feature].

    `target` [shot, way] are the labels as `targets` weighs them.
    """
    logits = mask_ways(features @ w0.T, way_mask)  # [shot, way]
    gram = features @ features.T  # [shot, shot]
    return Reduced(gram, logits, target, target.sum(-1), ridge)


def rate_bound(flow: Reduced) -> Array:
    """Bound the flow's fastest rate [] from above, at any state."""
    return 0.5 * (flow.mass * jnp.diagonal(flow.gram)).sum() + flow.ridge


def position(flow: Reduced, s: Array) -> tuple[Reduced, Array]:
    """Return the flow and the probabilities [shot, way] of its classifier at `s` [shot, way]."""
    return flow, jax.nn.softmax(flow.logits - flow.gram @ s)


def velocity(flow: Reduced, s: Array) -> Array:
    """Compute ds/dt [shot, way] at `s` [shot, way]."""
    _, p = position(flow, s)
    residual = flow.mass[:, None] * p - flow.target
    # In exact arithmetic the rows sum to zero, and nothing in the flow damps a common shift of the ways.
    residual = residual - p * residual.sum(-1, keepdims=True)
    return residual - flow.ridge * s


def shifted_solve(flow: Reduced, p: Array, shift: Array, scale: Array) -> Callable[[Array], Array]:
    """Return the function `b -> x` [shot, way] that solves `shift x + scale A G x = b`, for shift > 0.

    A_m = mass_m (diag p_m - p_m p_m^T) at the probabilities `p` [shot, way]; the flow's Jacobian is
    -(A G + ridge I). The ways meet only through the rank-one terms of A, so that one [shot, shot] system for
    each way and one more that joins them replace a [shot way, shot way] system (Rasmussen and Williams 2006,
    section 3.5). Differentiable in every input through the matrix-vector product; the factors are never
    differentiated.
    """
    root = jax.lax.stop_gradient(jnp.sqrt(flow.mass[:, None] * p * (scale / shift))).T  # [way, shot]
    gram, fixed = jax.lax.stop_gradient((flow.gram, shift))
    # [way, shot, shot] up to `share`
    eye = jnp.broadcast_to(jnp.eye(gram.shape[0], dtype=gram.dtype), (root.shape[0], *gram.shape))
    factors = jnp.linalg.cholesky(eye + jnp.einsum("ni,ij,nj->nij", root, gram, root))
    half = jax.scipy.linalg.solve_triangular(factors, root[:, None, :] * eye, lower=True)
    share = jnp.einsum("nki,nkj->nij", half, half)  # (1/D + G)^-1 of each way, D = diag(mass p scale / shift)
    joint = share.sum(0)  # [shot, shot]
    idle = jnp.diag((jnp.diagonal(joint) <= 0).astype(gram.dtype))  # [shot, shot], 1 for padded examples
    factor = jax.scipy.linalg.cho_factor(joint + idle, lower=True)

    def matvec(x: Array) -> Array:
        y = flow.gram @ x  # [shot, way]
        return shift * x + scale * flow.mass[:, None] * p * (y - (p * y).sum(-1, keepdims=True))

    def solve(b: Array) -> Array:
        x = b / fixed
        by_way = jnp.einsum("nij,jn->in", share, gram @ x)  # [shot, way]
        common = jax.scipy.linalg.cho_solve(factor, by_way.sum(-1))  # [shot]
        return x - by_way + jnp.einsum("nij,j->in", share, common)

    def transpose_solve(_: Callable[[Array], Array], b: Array) -> Array:
        return jax.linear_transpose(solve, b)(b)[0]

    return lambda b: jax.lax.custom_linear_solve(matvec, b, lambda _, b: solve(b), transpose_solve)
