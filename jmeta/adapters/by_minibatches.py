"""Adaptation of a whole network on minibatches of the support set, for outer updates that are no gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.inner.gradient import inner_loop
from jmeta.inner.minibatches import draw_minibatches
from jmeta.losses import mask_absent_ways, padded_ways
from jmeta.models.norm_policy import Norm, apply_with_norm, support_state
from jmeta.parts import require
from jmeta.types import Adapter, Array, Batch, BatchLoss, Key, Metrics, Model, PyTree, Rule


class Trained(NamedTuple):
    """A network trained on a task: its `params`, the rule's last `carry`, the `present` ways [way] if
    episodes are padded (else None), and the support set's `statistics` under norm="support"."""

    params: PyTree
    carry: PyTree
    present: Array | None
    statistics: PyTree


def by_minibatches(
    model: Model,
    loss: BatchLoss,
    rule: Rule,
    steps: int,
    *,
    batch: int,
    test_rule: Rule | None = None,
    test_steps: int | None = None,
    test_batch: int | None = None,
    test_loss: BatchLoss | None = None,
    norm: Norm = "batch",
    keep_carry: bool = False,
) -> Adapter:
    """Train the whole network on a task by steps of `rule`, each on a minibatch of the support set.

    The meta-parameters are {"params": the network's, "rule": what the rule learns}. Nothing of the trained
    weights is differentiated: `jmeta.learner` needs a `task_grad`.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      rule: the inner rule.
      steps, batch: number of steps and of the examples of a step in training, drawn without replacement
        within a pass over the support set (`jmeta.inner.minibatches`).
      test_rule, test_steps, test_batch, test_loss: those of evaluation, as in training if None.
      norm: statistics of batch normalization: "batch", of each minibatch and of the query set at hand, or
        "support", which normalizes the query by the support set's.
      keep_carry: begin each training task with the carry of the rule that the tasks before it left, on
        average, and evaluation with it too; otherwise with a fresh one.

    Returns:
      An `Adapter`, which draws at test. `info` has "support_loss", of the first minibatch, and at evaluation
      "support_loss_adapted", of the support set. Ways without a real support example are masked.

    Raises:
      TypeError: for what is no model or no rule.
      ValueError: for numbers of steps or examples below 1, and for another `norm`.
    """
    require("by_minibatches", "model", model, Model)
    require("by_minibatches", "rule", rule, Rule)
    counts = {"steps": steps, "test_steps": test_steps, "batch": batch, "test_batch": test_batch}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"by_minibatches: {name}={count}; expected at least 1")
    if norm not in ("batch", "support"):
        raise ValueError(f"by_minibatches: norm={norm!r}; expected 'batch' or 'support'")
    of_training = (rule, steps, batch, loss)
    of_test = (test_rule or rule, test_steps or steps, test_batch or batch, test_loss or loss)

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_model, key_rule = jax.random.split(key)
        params, state = model.init(key_model, x)
        hyper = rule.init(key_rule, params)
        state = {"model": state, "carry": rule.start(hyper, params, key_rule)} if keep_carry else state
        return {"params": params, "rule": hyper}, state

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key, *, train: bool
    ) -> tuple[Trained, PyTree, Metrics]:
        chosen, count, size, own_loss = of_training if train else of_test
        network = state["model"] if keep_carry else state
        key_rows, key_rule, key_noise = jax.random.split(key, 3)

        def outputs_of(params: PyTree, examples: Batch, noise: Key | None = None) -> PyTree:
            options: dict[str, Any] = {"train": train, "key": noise, "mask": examples.mask}
            # of the examples at hand under both policies
            outputs, _ = apply_with_norm(model, "batch", params, network, examples.x, **options)
            return outputs

        present = padded_ways(support, lambda: outputs_of(meta["params"], support))
        rows = draw_minibatches(key_rows, support.y.shape[0], size, count, support.mask)  # [step, example]

        def minibatch_loss(params: PyTree, step: Array) -> Array:
            drawn = Batch(*jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows[step]], (support.x, support.y)))
            outputs = outputs_of(params, drawn, jax.random.fold_in(key_noise, step) if train else None)
            return own_loss(mask_absent_ways(outputs, present), drawn)

        if keep_carry:
            chosen = chosen._replace(start=lambda hyper, params, key: state["carry"])
        params, trace = inner_loop(
            minibatch_loss, chosen, meta["rule"], meta["params"], count,
            order="first", remat="none", key=key_rule,
        )  # fmt: skip
        info = {"support_loss": trace.losses[0]}
        if not train:
            info["support_loss_adapted"] = own_loss(
                mask_absent_ways(outputs_of(params, support), present), support
            )
        elif keep_carry:
            state = {"model": network, "carry": trace.carry}
        statistics = None
        if norm == "support":
            statistics = support_state(model, params, network, support.x, mask=support.mask)
        return Trained(params, trace.carry, present, statistics), state, info

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
        network = state["model"] if keep_carry else state
        network = fast.statistics if norm == "support" else network
        noise = key if train else None
        outputs, _ = apply_with_norm(model, norm, fast.params, network, x, train=train, key=noise, mask=mask)
        return mask_absent_ways(outputs, fast.present), state

    return Adapter(init, adapt, predict, draws_at_test=True)


def gradient_at(meta: PyTree, gradient: PyTree) -> PyTree:
    """Complete a gradient of meta["params"] by zeros to one of the meta-parameters."""
    return {**jax.tree.map(jnp.zeros_like, meta), "params": gradient}
