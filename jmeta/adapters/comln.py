"""COMLN: adapt a linear classifier by following its gradient flow up to a learned horizon.

Deleu et al., Continuous-Time Meta-Learning with Forward Mode Differentiation, ICLR 2022.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.inner.flow import gradient_flow_with_info
from jmeta.inner.implicit import gradient_flow_limit
from jmeta.losses import mask_absent_ways, present_ways, smooth_labels
from jmeta.models.normalisation import Norm, apply_with_norm, support_state
from jmeta.types import Adapter, Array, Batch, Key, Metrics, Model, PyTree


class Adapted(NamedTuple):
    """What a task leaves behind: the classifier `w` [way, feature], the `present` ways [way] where episodes
    are padded, and the support set's `statistics` under norm="support"."""

    w: Array
    present: Array | None
    statistics: PyTree


def comln(
    backbone: Model,
    way: int,
    *,
    horizon: float = 1.0,
    learn_horizon: bool = True,
    method: Literal["adjoint", "forward", "full"] = "adjoint",
    solver: str | None = None,
    step_size: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    ridge: float = 0.0,
    max_steps: int = 4096,
    label_smoothing: float = 0.0,
    norm: Literal["batch", "support", "running"] = "batch",
    initial_scale: Literal["way", "feature"] = "way",
    task_horizon: bool = False,
) -> Adapter:
    """COMLN (paper Algorithm 1): a shared backbone, and a classifier W(T) that solves dW/dt = -grad L(W).

    The meta-parameters are {"backbone", "w0" [way, feature], "log_horizon" []}: T = exp(log_horizon) is
    learned beside the rest.

    Args:
      backbone: network from inputs to features [example, feature].
      way: number of ways N.
      horizon: initial T, in units of time; `math.inf`, with ridge > 0, adapts to the equilibrium.
      learn_horizon: whether T is meta-learned (false: Fig. 5 right, a fixed T).
      method, solver, step_size, rtol, atol, ridge, max_steps: see `jmeta.gradient_flow`;
        solver="euler" with step_size a is ANIL with T/a steps (paper 3.3). Without a solver, "tsit5" where
        hard labels and no ridge keep the flow from being stiff: a smaller program than the flow's default.
      label_smoothing: share of a support label spread over the ways while training (released code).
      norm: the backbone's batch statistics: of the batch itself, also at test ("batch", transductive), of
        the support set ("support"), or running averages at test ("running").
      initial_scale: W0 is truncated normal with deviation 1/sqrt(way), as the released code has it, or
        1/sqrt(feature).
      task_horizon: the paper's future work (section 7): log T of a task is log_horizon plus a learned linear
        function ("horizon_weights" [3], zero at first) of the support set's loss, gradient norm and feature
        norm at W0, each as a logarithm.

    Returns:
      An `Adapter` with logits [example, way]; `info` has `flow_ok`, `flow_steps` and `horizon`.

    Raises:
      ValueError: for a norm policy that does not fit, or features that are not [example, feature].
    """
    if norm not in ("batch", "support", "running"):
        raise ValueError(f"comln: norm={norm!r}; expected 'batch', 'support' or 'running'")
    if initial_scale not in ("way", "feature"):
        raise ValueError(f"comln: initial_scale={initial_scale!r}; expected 'way' or 'feature'")
    if not horizon > 0:
        raise ValueError(f"comln: horizon={horizon}; expected a positive time, T = exp(log_horizon)")
    at_equilibrium = math.isinf(horizon)
    if at_equilibrium and not ridge > 0:
        raise ValueError(f"comln: horizon=inf with ridge={ridge}; the flow settles only where ridge > 0")
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
        "max_steps": max_steps,
    }

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_backbone, key_w0 = jax.random.split(key)
        params, state = backbone.init(key_backbone, x)
        shape = jax.eval_shape(lambda: backbone.apply(params, state, x, train=True)[0])
        if len(shape.shape) != 2:
            raise ValueError(
                f"comln: the backbone returns {shape.shape}; expected features [example, feature]"
            )
        deviation = 1 / math.sqrt(way if initial_scale == "way" else shape.shape[1])
        w0 = deviation * jax.random.truncated_normal(key_w0, -2, 2, (way, shape.shape[1]), shape.dtype)
        meta = {"backbone": params, "w0": w0}
        if not at_equilibrium:
            meta["log_horizon"] = jnp.log(jnp.asarray(horizon, shape.dtype))
        if task_horizon:
            meta["horizon_weights"] = jnp.zeros(3, shape.dtype)
        return meta, state

    def features(
        meta: PyTree, state: PyTree, x: PyTree, policy: Norm, train: bool, key: Key | None, mask: Array | None
    ) -> tuple[Array, PyTree]:
        noise = key if train else None
        return apply_with_norm(
            backbone, policy, meta["backbone"], state, x, train=train, key=noise, mask=mask
        )

    def encode(
        meta: PyTree, state: PyTree, x: PyTree, *, train: bool, key: Key | None, mask: Array | None
    ) -> tuple[PyTree, PyTree]:
        if norm == "support":  # features depend on the task's statistics: encoded in adapt and predict
            return x, state
        return features(meta, state, x, norm, train, key, mask)

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key, *, train: bool
    ) -> tuple[Adapted, PyTree, Metrics]:
        z, statistics = support.x, None
        if norm == "support":
            noise = key if train else None
            statistics = support_state(
                backbone, meta["backbone"], state, support.x, key=noise, mask=support.mask
            )
            z, _ = features(meta, statistics, support.x, "running", False, noise, support.mask)
        present = present_ways(support.y, way, support.mask)
        labels = smooth_labels(support.y, present, label_smoothing if train else 0.0, z.dtype)
        padded = support.mask is not None
        absent: dict[str, Any] = {"mask": support.mask, "way_mask": present if padded else None}
        if at_equilibrium:
            w = gradient_flow_limit(meta["w0"], z, labels, ridge=ridge, **absent)
            info = {"flow_ok": jnp.isfinite(w).all()}
        else:
            log_horizon = meta["log_horizon"] if learn_horizon else jax.lax.stop_gradient(meta["log_horizon"])
            if task_horizon:
                summary = _difficulty(meta["w0"], z, labels, present, support.mask)
                log_horizon = log_horizon + meta["horizon_weights"] @ summary
            time = jnp.exp(log_horizon)
            w, flow = gradient_flow_with_info(meta["w0"], z, labels, time, **flow_settings, **absent)
            info = {"flow_ok": flow.ok, "flow_steps": flow.steps, "horizon": time}
        return Adapted(w, present if padded else None, statistics), state, info

    def predict(
        meta: PyTree,
        fast: Adapted,
        state: PyTree,
        x: PyTree,
        key: Key,
        *,
        train: bool,
        mask: Array | None = None,
    ) -> tuple[Array, PyTree]:
        z = x
        if norm == "support":
            z, _ = features(meta, fast.statistics, x, "running", False, key if train else None, mask)
        logits = z @ fast.w.T
        return logits if fast.present is None else mask_absent_ways(logits, fast.present), state

    return Adapter(init=init, encode=encode, adapt=adapt, predict=predict)


def _difficulty(w0: Array, z: Array, labels: Array, present: Array, mask: Array | None) -> Array:
    """What a task looks like before it is adapted to, [3], whatever its order of ways and examples."""
    weights = jnp.ones(z.shape[0], z.dtype) if mask is None else mask.astype(z.dtype)
    weights = weights / weights.sum()
    logits = mask_absent_ways(z @ w0.T, present)
    log_p = jax.nn.log_softmax(logits)
    loss = -(weights[:, None] * labels * jnp.where(labels > 0, log_p, 0)).sum()
    gradient = (weights[:, None] * (jnp.exp(log_p) - labels)).T @ z
    square = (weights[:, None] * z * z).sum()
    small = jnp.finfo(z.dtype).tiny ** 0.5
    return jnp.log(jnp.stack([loss, (gradient * gradient).sum(), square]) + small)
