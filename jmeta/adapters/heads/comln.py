"""COMLN: adapt a linear classifier by following its gradient flow up to a learned horizon.

Deleu et al., Continuous-Time Meta-Learning with Forward Mode Differentiation, ICLR 2022.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jmeta.adapters.on_features import on_features
from jmeta.bounds import labels_factor, spoil
from jmeta.inner.flow.gradient_flow import gradient_flow_with_info
from jmeta.inner.flow.limit import gradient_flow_limit
from jmeta.losses import mask_absent_ways, present_ways, smooth_labels
from jmeta.models.norm_policy import Norm
from jmeta.types import Adapter, Array, Batch, Head, Key, Metrics, Model, PyTree

TRUNCATED_DEVIATION = 0.87962566103423978  # of a standard normal number that is truncated at -2 and 2


def comln(backbone: Model, way: int, *, norm: Norm = "batch", **settings: Any) -> Adapter:
    """Adapt by COMLN (paper Algorithm 1): a shared backbone below a `comln_head`.

    The meta-parameters are {"body", "head": {"w0" [way, feature], "log_horizon" []}}.

    Args:
      backbone: network from inputs to features [example, feature].
      way: number of ways N.
      norm: the backbone's batch statistics, see `jmeta.on_features`.
      **settings: keyword arguments of `comln_head`.

    Returns:
      An `Adapter` with logits [example, way]; `info` has `flow_ok`, `flow_steps` and `horizon`.

    Raises:
      ValueError: for a norm policy or settings that do not fit, or features that are not [example, feature].
    """
    return on_features(backbone, comln_head(way, **settings), way, norm=norm)


def comln_head(
    way: int,
    *,
    horizon: float = 1.0,
    learn_horizon: bool = True,
    task_horizon: bool = False,
    initial_scale: Literal["way", "feature"] = "way",
    method: Literal["adjoint", "forward", "full"] = "adjoint",
    solver: str | None = None,
    step_size: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    ridge: float = 0.0,
    solver_steps: int = 4096,
    label_smoothing: float = 0.0,
) -> Head:
    """Fit the classifier W(T) that solves dW/dt = -grad L(W) from a learned W(0) over a learned horizon T.

    Args:
      way: number of ways N.
      horizon: initial T, in units of time; `math.inf`, with ridge > 0, adapts to the equilibrium.
      learn_horizon: whether T is meta-learned; if not, T is fixed (Fig. 5, right).
      task_horizon: the paper's future work (section 7): log T of a task is log_horizon plus a learned linear
        function ("horizon_weights" [3], zero at first) of the support set's loss, gradient norm and feature
        norm at W0, each as a logarithm.
      initial_scale: W0 is truncated normal with deviation 1/sqrt(way), as in the released code, or
        1/sqrt(feature).
      method, step_size, rtol, atol, ridge: see `jmeta.gradient_flow`; `solver_steps` is its `max_steps`.
      solver: see `jmeta.gradient_flow`; "euler" with step_size a is ANIL with T/a steps (paper 3.3). If None,
        "tsit5" when hard labels and no ridge keep the flow from being stiff, which is a smaller program than
        the flow's default.
      label_smoothing: share of a support label spread over the ways while training (released code).

    Returns:
      A `Head` with logits [example, way] and meta-parameters in float32 or wider; `info` has `flow_ok`,
      `flow_steps` and `horizon`.

    Raises:
      ValueError: for settings that do not go together; at `init`, for features that are not
        [example, feature].
    """
    if initial_scale not in ("way", "feature"):
        raise ValueError(f"comln: initial_scale={initial_scale!r}; expected 'way' or 'feature'")
    if not horizon > 0:
        raise ValueError(f"comln: horizon={horizon}; expected a positive time, T = exp(log_horizon)")
    if solver == "euler" and step_size is None:
        raise ValueError("comln: solver=euler needs step_size, the learning rate of its gradient steps")
    at_equilibrium = math.isinf(horizon)
    if at_equilibrium and not ridge > 0:
        raise ValueError(f"comln: horizon=inf with ridge={ridge}; the flow settles only if ridge > 0")
    if task_horizon and (at_equilibrium or not learn_horizon):
        raise ValueError("comln: task_horizon learns T; give a finite horizon and learn_horizon=True")
    if solver is None and not ridge and not label_smoothing:
        solver = "tsit5"
    flow_settings: dict[str, Any] = {
        "method": method,
        "solver": solver,
        "step_size": step_size,
        "rtol": rtol,
        "atol": atol,
        "ridge": ridge,
        "max_steps": solver_steps,
    }

    def init(key: Key, z: Array) -> PyTree:
        if z.ndim != 2:
            raise ValueError(f"comln: the backbone returns {z.shape}; expected features [example, feature]")
        dtype = jnp.promote_types(z.dtype, jnp.float32)
        deviation = 1 / math.sqrt(way if initial_scale == "way" else z.shape[1])
        drawn = jax.random.truncated_normal(key, -2, 2, (way, z.shape[1]), dtype)
        meta = {"w0": deviation / TRUNCATED_DEVIATION * drawn}
        if not at_equilibrium:
            meta["log_horizon"] = jnp.log(jnp.asarray(horizon, dtype))
        if task_horizon:
            meta["horizon_weights"] = jnp.zeros(3, dtype)
        return meta

    def fit(
        meta: PyTree, support: Batch, key: Key | None, *, present: Array | None, train: bool
    ) -> tuple[Array, Metrics]:
        z, ways = support.x.astype(meta["w0"].dtype), present_ways(support.y, way, support.mask)
        factor = labels_factor("comln", support.y, way, support.mask)
        labels = smooth_labels(support.y, ways, label_smoothing if train else 0.0, z.dtype)
        padding: dict[str, Any] = {"mask": support.mask, "way_mask": present}
        if at_equilibrium:
            w = gradient_flow_limit(meta["w0"], z, labels, ridge=ridge, **padding)
            return spoil(w, factor), {"flow_ok": jnp.isfinite(w).all()}
        log_horizon = meta["log_horizon"] if learn_horizon else jax.lax.stop_gradient(meta["log_horizon"])
        if task_horizon:
            summary = _difficulty(meta["w0"], z, labels, ways, support.mask)
            log_horizon = log_horizon + meta["horizon_weights"] @ summary
        time = jnp.exp(log_horizon)
        w, flow = gradient_flow_with_info(meta["w0"], z, labels, time, **flow_settings, **padding)
        return spoil(w, factor), {"flow_ok": flow.ok, "flow_steps": flow.steps, "horizon": time}

    def predict(meta: PyTree, w: Array, z: Array) -> Array:
        return z @ w.T

    return Head(init, fit, predict)


def _difficulty(w0: Array, z: Array, labels: Array, present: Array, mask: Array | None) -> Array:
    """Describe a task before it is adapted to, [3], invariant in the order of its ways and examples."""
    weights = jnp.ones(z.shape[0], z.dtype) if mask is None else mask.astype(z.dtype)
    weights = weights / weights.sum()
    logits = mask_absent_ways(z @ w0.T, present)
    log_p = jax.nn.log_softmax(logits)
    loss = -(weights[:, None] * labels * jnp.where(labels > 0, log_p, 0)).sum()
    gradient = (weights[:, None] * (jnp.exp(log_p) - labels)).T @ z
    square = (weights[:, None] * z * z).sum()
    small = jnp.finfo(z.dtype).tiny ** 0.5
    return jnp.log(jnp.stack([loss, (gradient * gradient).sum(), square]) + small)
