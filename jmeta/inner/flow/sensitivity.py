"""Forward sensitivities: meta-gradients integrated alongside the flow, as in the paper.

Instead of going back over the flow's steps, the Jacobians of W(T) are carried forward, decomposed into
B [shot, shot, way, way] and z [shot, shot, shot, way], whose size depends neither on the features nor on the
horizon (COMLN, section 4.1, App. B and C):

    dW(T)/dW0    = I - sum_ij B[i, j] x (phi_i phi_j^T)
    dW(T)/dphi_m = -(s_m x I + sum_i (B[i, m] W0) x phi_i + sum_ij z[i, j, m] phi_j^T x phi_i)
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jmeta.inner.flow.integrate import Integrate
from jmeta.inner.flow.reduced import Reduced, position, velocity
from jmeta.types import Array


class Sensitivities(NamedTuple):
    """The state of the flow and its sensitivities.

    `s` [shot, way], `b` [shot, shot, way, way] and `z` [shot, shot, shot, way] (z[i, j, m]).
    """

    s: Array
    b: Array
    z: Array


def _initial(flow: Reduced) -> Sensitivities:
    """Return the sensitivities at time 0."""
    shot, way = flow.logits.shape
    shapes = (shot, way), (shot, shot, way, way), (shot, shot, shot, way)
    return Sensitivities(*(jnp.zeros(shape, flow.logits.dtype) for shape in shapes))


def sensitivity_velocity(flow: Reduced, at: Sensitivities) -> Sensitivities:
    """Compute the time derivatives of (s, B, z) (COMLN, App. B.2 and B.3, with the proximal term)."""
    s, b, z = at
    _, p = position(flow, s)
    eye = jnp.eye(len(s), dtype=s.dtype)  # [shot, shot]
    # A_i, [shot, way, way]
    curvature = flow.mass[:, None, None] * (jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :])
    # [shot, shot, way, way]
    coupling = jnp.einsum("im,mjab->ijab", -flow.gram, b)
    identity = jnp.broadcast_to(jnp.eye(s.shape[1], dtype=s.dtype), coupling.shape)
    db = jnp.einsum("iac,ijcb->ijab", curvature, eye[:, :, None, None] * identity + coupling)
    # [shot, shot, shot, way]
    total = jnp.einsum("ik,kjma->ijma", flow.gram, z)
    total = total + eye[:, :, None, None] * s[None, None] + eye[:, None, :, None] * s[None, :, None]
    dz = -jnp.einsum("iac,ijmc->ijma", curvature, total)
    return Sensitivities(velocity(flow, s), db - flow.ridge * b, dz - flow.ridge * z)


def forward_flow(
    integrate: Integrate, w0: Array, features: Array, horizon: Array, flow: Reduced
) -> tuple[Array, Array, Array]:
    """Integrate the flow: W(T) [way, feature], the solver's steps [], and True [] if it reached the horizon.

    `w0` [way, feature], `features` [shot, feature], `horizon` []; `flow` is their reduced flow.
    Differentiable in `w0`, `features` and `horizon`; (s, B, z) are integrated only for a derivative. Raises
    ValueError for a derivative in the labels or the ridge, for which the paper has no sensitivity.
    """
    detached = flow._replace(gram=jax.lax.stop_gradient(flow.gram), logits=jax.lax.stop_gradient(flow.logits))
    return _forward_flow(integrate, w0, features, horizon, detached)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _forward_flow(
    integrate: Integrate, w0: Array, features: Array, horizon: Array, flow: Reduced
) -> tuple[Array, Array, Array]:
    solution = integrate(velocity, position, jnp.zeros_like(flow.logits), flow, horizon)
    w = w0 - solution.state.T @ features  # [way, feature]
    return w, solution.steps, solution.ok


def _forward(integrate: Integrate, w0: Any, features: Any, horizon: Any, flow: Any) -> tuple[Any, Any]:
    if any(leaf.perturbed for leaf in (flow.target, flow.mass, flow.ridge)):
        raise ValueError(
            "gradient_flow: method 'forward' has no derivative in the labels or the ridge; use "
            "method='adjoint', or stop_gradient them"
        )
    w0, features, horizon, flow = jax.tree.map(
        lambda leaf: leaf.value,
        (w0, features, horizon, flow),
        is_leaf=lambda leaf: hasattr(leaf, "perturbed"),
    )
    solution = integrate(
        sensitivity_velocity, lambda flow, at: position(flow, at.s), _initial(flow), flow, horizon
    )
    out = w0 - solution.state.s.T @ features, solution.steps, solution.ok
    return out, (w0, features, solution.state, solution.slope.s)


def _backward(integrate: Integrate, residuals: tuple, bars: tuple) -> tuple:
    w0, features, (s, b, z), slope = residuals
    v = bars[0]
    if isinstance(v, SymbolicZero):
        v = jnp.zeros(v.shape, v.dtype)
    along = features @ v.T  # [shot, way]
    c = jnp.einsum("ia,ijab->jb", along, b)  # [shot, way]
    d = jnp.einsum("ia,ijma->mj", along, z)  # [shot, shot]
    w0_bar = v - c.T @ features  # [way, feature]
    features_bar = -(s @ v + c @ w0 + d @ features)  # [shot, feature]
    horizon_bar = -(along * slope).sum()
    return w0_bar, features_bar, horizon_bar, None


_forward_flow.defvjp(_forward, _backward, symbolic_zeros=True)
