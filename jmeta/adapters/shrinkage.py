"""Shrinkage by implicit gradients: sigma-iMAML and sigma-Reptile; sigma-MAML is `jmeta.shrinkage`.

Chen et al., Modular Meta-Learning with Shrinkage, NeurIPS 2020.

Deviations. Those of `jmeta.proximal_sgd`; the solver's numbers of steps are those of iMAML's code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.adapters.by_minibatches import Trained
from jmeta.adapters.named import deviations
from jmeta.inner.implicit import proximal_solve
from jmeta.losses import mask_absent_ways, padded_ways
from jmeta.models.norm_policy import Norm, apply_with_norm, support_state
from jmeta.parts import require
from jmeta.rules.proximal_sgd import proximal_sgd
from jmeta.tree import by_module
from jmeta.types import Adapter, Array, Batch, BatchLoss, Key, Metrics, Model, PyTree, Task


def implicit_shrinkage(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 16,
    test_inner_steps: int | None = None,
    cg_steps: int = 5,
    log_variance: float = 0.0,
    test_loss: BatchLoss | None = None,
    norm: Norm = "batch",
) -> Adapter:
    """Adapt the whole network to the minimum of support loss and prior, by implicit gradients: sigma-iMAML.

    With `task_grad=jmeta.sigma_reptile_gradient()` of `jmeta.learner` it is sigma-Reptile. The
    meta-parameters are {"params", "rule": {"log_variance": {module: []}}}, a module being a layer.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      inner_lr, inner_steps, test_inner_steps: rate and number of the solver's steps, and that at evaluation,
        `inner_steps` if None.
      cg_steps: steps of conjugate gradients in the reverse pass.
      log_variance: initial logarithm of the priors' variances.
      test_loss: inner loss at evaluation, `loss` if None.
      norm: "batch" or "support", see `jmeta.models.norm_policy`.

    Raises:
      TypeError: for what is no model.
      ValueError: for another `norm`, a rate that is not positive, or numbers of steps below 1.
    """
    require("implicit_shrinkage", "model", model, Model)
    if norm not in ("batch", "support"):
        raise ValueError(f"implicit_shrinkage: norm={norm!r}; expected 'batch' or 'support'")
    test_steps = inner_steps if test_inner_steps is None else test_inner_steps
    for name, count in (
        ("inner_steps", inner_steps),
        ("test_inner_steps", test_steps),
        ("cg_steps", cg_steps),
    ):
        if count < 1:
            raise ValueError(f"implicit_shrinkage: {name}={count}; expected at least 1")
    rule = proximal_sgd(inner_lr, log_variance=log_variance)

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_model, key_rule = jax.random.split(key)
        params, state = model.init(key_model, x)
        return {"params": params, "rule": rule.init(key_rule, params)}, state

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key | None, *, train: bool
    ) -> tuple[Trained, PyTree, Metrics]:
        chosen_loss = loss if train or test_loss is None else test_loss
        noise = key if train else None  # the same at every step, so that there is a minimum

        def outputs_of(params: PyTree) -> PyTree:
            options: dict[str, Any] = {"train": train, "key": noise, "mask": support.mask}
            return apply_with_norm(model, "batch", params, state, support.x, **options)[0]

        present = padded_ways(support, lambda: outputs_of(meta["params"]))

        def support_loss(params: PyTree, step: Array) -> Array:
            return chosen_loss(mask_absent_ways(outputs_of(params), present), support)

        count, logs = inner_steps if train else test_steps, meta["rule"]["log_variance"]
        solver: dict[str, Any] = {"rate": inner_lr, "cg_steps": cg_steps}
        params = proximal_solve(support_loss, meta["params"], logs, count, **solver)
        step = jnp.zeros((), jnp.int32)
        info = {"support_loss": jax.lax.stop_gradient(support_loss(meta["params"], step))}
        if not train:
            info["support_loss_adapted"] = support_loss(params, step)
        statistics = None
        if norm == "support":
            statistics = support_state(model, params, state, support.x, key=noise, mask=support.mask)
        return Trained(params, (), present, statistics), state, info

    def predict(
        meta: PyTree,
        fast: Trained,
        state: PyTree,
        x: PyTree,
        key: Key | None,
        *,
        train: bool,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        entry, noise = fast.statistics if norm == "support" else state, key if train else None
        outputs, _ = apply_with_norm(model, norm, fast.params, entry, x, train=train, key=noise, mask=mask)
        return mask_absent_ways(outputs, fast.present), state

    return Adapter(init, adapt, predict, learned=deviations)


def sigma_reptile_gradient() -> Callable[..., Any]:
    """Return the `task_grad` of sigma-Reptile for `jmeta.learner`.

    The initialization has the prior's own gradient, (start_m - w_m) / sigma_m^2 at the adapted weights w; the
    variances have the implicit gradient of the query loss.
    """

    def task_grad(
        objective: Callable[..., Any], meta: PyTree, state: PyTree, task: Task, key: Key
    ) -> tuple[Any, PyTree]:
        (value, outcome), gradient = jax.value_and_grad(objective, has_aux=True)(meta, state, task, key)
        way_back = jax.tree.map(jnp.subtract, meta["params"], outcome.fast.params)
        logs = meta["rule"]["log_variance"]
        prior = by_module(lambda w, log: jnp.exp(-log) * w, way_back, logs)
        return (value, outcome), {**gradient, "params": prior}

    return task_grad
