"""ANIL: gradient steps on the last layer alone, on features computed once a task.

Raghu et al., Rapid Learning or Feature Reuse?, ICLR 2020.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jmeta.adapters.gradient import single_example
from jmeta.adapters.on_features import on_features
from jmeta.inner.gradient import Order, Remat, check_settings, inner_loop
from jmeta.inner.smoothness import require_smooth
from jmeta.losses import mask_absent_ways
from jmeta.models.norm_policy import Norm
from jmeta.rules.sgd import sgd
from jmeta.types import Adapter, Array, Batch, BatchLoss, Head, Key, Metrics, Model, PyTree, Rule


def gradient_head(
    model: Model,
    loss: BatchLoss,
    rule: Rule,
    steps: int | None,
    *,
    test_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    test_rule: Rule | None = None,
    order: Order = "exact",
    remat: Remat = "step",
) -> Head:
    """Fit a small network to features by steps of an inner rule.

    The meta-parameters are {"params": the network's, "rule": what the rule learns}.

    Args:
      model: network from features to outputs, without running statistics.
      loss: `(outputs, Batch) -> scalar`, the inner loss.
      rule: the inner update rule.
      steps: number of steps in training, each on the whole support set; None takes one step on each support
        example, in their order, as a stream shows them (OML, Javed & White 2019).
      test_steps: number of steps at evaluation, `steps` if None.
      test_loss: inner loss at evaluation, `loss` if None (which may smooth labels, say).
      test_rule: inner rule at evaluation, `rule` if None; it learns nothing and may be any rule.
      order, remat: see `jmeta.inner_loop`.

    Returns:
      A `Head`. `info` has "support_loss", before the first step, and at evaluation "support_loss_adapted".
      Noise is drawn in training only, anew at each step.

    Raises:
      ValueError: for settings that mean nothing; at `init`, for a network with running statistics and for a
        rule that exact and mixed order cannot differentiate.
    """
    for count in (steps, steps if test_steps is None else test_steps):
        check_settings("anil", 0 if count is None else count, order, remat)
    if steps is None and test_steps is not None:
        raise ValueError(f"anil: test_steps={test_steps}; steps=None takes a step for each example")

    def init(key: Key, z: PyTree) -> PyTree:
        key_model, key_rule = jax.random.split(key)
        params, state = model.init(key_model, z)
        if jax.tree.leaves(state):
            raise ValueError("anil: the head keeps running statistics; expected a network without state")
        hyper = rule.init(key_rule, params)
        if order != "first":
            require_smooth(rule, hyper, params)
        return {"params": params, "rule": hyper}

    def fit(
        meta: PyTree, support: Batch, key: Key | None, *, present: Array | None, train: bool
    ) -> tuple[PyTree, Metrics]:
        key_rule, key_noise = (None, None) if key is None else jax.random.split(key)
        at_test = not train and test_rule is not None
        chosen_rule, hyper = (test_rule or rule, ()) if at_test else (rule, meta["rule"])
        chosen_loss = loss if train or test_loss is None else test_loss
        count = steps if train or test_steps is None else test_steps
        each_example = count is None
        if count is None:
            count = jax.tree.leaves(support.x)[0].shape[0]

        def loss_on(batch: Batch, params: PyTree, step: Array) -> Array:
            noise = jax.random.fold_in(key_noise, step) if train and key_noise is not None else None
            outputs, _ = model.apply(params, {}, batch.x, train=train, key=noise, mask=batch.mask)
            return chosen_loss(mask_absent_ways(outputs, present), batch)

        def support_loss(params: PyTree, step: Array) -> Array:
            return loss_on(single_example(support, step) if each_example else support, params, step)

        settings: dict[str, Any] = {"order": "first" if at_test else order, "remat": remat, "key": key_rule}
        fast, trace = inner_loop(support_loss, chosen_rule, hyper, meta["params"], count, **settings)
        info = {"support_loss": trace.losses[0]} if count else {}
        if not train:
            info["support_loss_adapted"] = loss_on(support, fast, jnp.asarray(count, jnp.int32))
        return fast, info

    def predict(meta: PyTree, fast: PyTree, z: PyTree) -> PyTree:
        return model.apply(fast, {}, z, train=False)[0]

    return Head(init, fit, predict)


def anil_head(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.01,
    inner_steps: int = 5,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    order: Order = "mixed",
    remat: Remat = "step",
) -> Head:
    """Fit the last layer by gradient descent: `gradient_head` with `sgd(inner_lr)`."""
    steps: dict[str, Any] = {"test_steps": test_inner_steps, "test_loss": test_loss}
    return gradient_head(model, loss, sgd(inner_lr), inner_steps, **steps, order=order, remat=remat)


def anil(
    body: Model,
    head: Model,
    loss: BatchLoss,
    rule: Rule,
    steps: int | None,
    *,
    way: int | None = None,
    norm: Norm = "batch",
    **options: Any,
) -> Adapter:
    """Adapt `head` by inner steps on the features of `body`: `on_features` around a `gradient_head`.

    `way` and `norm` are `on_features`'s, the `options` `gradient_head`'s.
    """
    return on_features(body, gradient_head(head, loss, rule, steps, **options), way, norm=norm)
