"""Adaptation in continuous time: a linear classifier follows the gradient flow of its loss up to a horizon."""

from __future__ import annotations

import math
from typing import Literal

import diffrax
import jax
import jax.numpy as jnp

from jmeta.inner.reduced import reduce, velocity
from jmeta.types import Array, FlowInfo

Method = Literal["adjoint", "forward", "full"]
_SOLVERS = {"tsit5": diffrax.Tsit5, "dopri5": diffrax.Dopri5, "kvaerno5": diffrax.Kvaerno5}


def gradient_flow_with_info(
    w0: Array,
    features: Array,
    labels: Array,
    horizon: Array | float,
    *,
    method: Method = "adjoint",
    solver: str | None = None,
    step_size: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    ridge: Array | float = 0.0,
    mask: Array | None = None,
    max_steps: int = 4096,
    way_mask: Array | None = None,
) -> tuple[Array, FlowInfo]:
    """`gradient_flow`, and how it ended."""
    if method != "adjoint":
        raise ValueError(f"gradient_flow: method {method!r} is unknown; use 'adjoint'")
    dtype = jnp.promote_types(jnp.result_type(w0, features), jnp.float32)
    w0, features, labels = (jnp.asarray(a, dtype) for a in (w0, features, labels))
    horizon, ridge = jnp.asarray(horizon, dtype), jnp.asarray(ridge, dtype)
    if mask is not None:
        features = jnp.where(mask[:, None] > 0, features, 0)
        labels = jnp.where(mask[:, None] > 0, labels, 0)
    flow = reduce(w0, features, labels, ridge, mask, way_mask)
    valid = (horizon >= 0) & jnp.isfinite(horizon) & jnp.isfinite(ridge)
    for leaf in (w0, flow.gram, flow.logits, flow.target):
        valid &= jnp.isfinite(leaf).all()
    run = jnp.where(valid, horizon, 0)  # a flow that cannot be followed must not keep the batch waiting
    rate = 0.5 * jnp.trace(flow.gram) / features.shape[0] + ridge
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, s, args: args[0] * velocity(args[1], s)),
        _SOLVERS[solver or "tsit5"](),
        t0=jnp.zeros((), dtype),
        t1=jnp.ones((), dtype),
        dt0=jax.lax.stop_gradient(1 / (1 + run * rate)),
        y0=jnp.zeros_like(flow.logits),
        args=(run, flow),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    s = solution.ys[0]
    ok = valid & (solution.result == diffrax.RESULTS.successful) & jnp.isfinite(s).all()
    w = w0 - s.T @ features
    gate = jnp.where(ok, jnp.ones((), dtype), jnp.asarray(math.nan, dtype))
    inputs = horizon + ridge + w0.sum() + features.sum() + labels.sum()
    w = w * gate + (gate - 1) * inputs  # NaN in the value and in every gradient
    return w, FlowInfo(solution.stats["num_steps"].astype(jnp.int32), ok)


def gradient_flow(
    w0: Array,
    features: Array,
    labels: Array,
    horizon: Array | float,
    *,
    method: Method = "adjoint",
    solver: str | None = None,
    step_size: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    ridge: Array | float = 0.0,
    mask: Array | None = None,
    max_steps: int = 4096,
    way_mask: Array | None = None,
) -> Array:
    """The classifier W(T) [way, feature] reached from `w0` by the gradient flow of its loss on the examples."""
    return gradient_flow_with_info(
        w0,
        features,
        labels,
        horizon,
        method=method,
        solver=solver,
        step_size=step_size,
        rtol=rtol,
        atol=atol,
        ridge=ridge,
        mask=mask,
        max_steps=max_steps,
        way_mask=way_mask,
    )[0]
