"""MAML++: rates, normalization and outer loss for each inner step.

Antoniou, Edwards & Storkey, How to Train Your MAML, ICLR 2019.

Deviations. Paper and released code differ, and both are settings: the code normalizes by the batch at hand
throughout (norm="batch") and takes exact derivatives from the start. The average over the best models of
several epochs, which the published numbers are from, is not built: one model is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jmeta.inner.gradient import Order, Remat, check_settings, inner_loop
from jmeta.losses import mask_absent_ways, padded_ways
from jmeta.models.norm_policy import (
    Norm,
    apply_with_norm,
    is_no_norm,
    set_step_state,
    stack_state,
    step_state,
)
from jmeta.parts import require
from jmeta.rules.sgd import sgd
from jmeta.tree import merge, split
from jmeta.types import Adapter, Array, Batch, BatchLoss, Key, Metrics, Model, PyTree


class PerStep(NamedTuple):
    """Outputs after each inner step, [step, example, ...], and the `weights` [step] of their losses."""

    outputs: PyTree
    weights: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one step's outputs, to check labels by."""
        return self.outputs.shape[1:]


class Path(NamedTuple):
    """A network adapted to a task: the adapted `params`, those after each step if their losses count (else
    None), and the `present` ways [way] if episodes are padded (else None)."""

    params: PyTree
    after_steps: PyTree
    present: Array | None


def multi_step(outputs: PyTree, batch: Batch, *, loss: BatchLoss) -> Array:
    """Compute the weighted sum of the `loss` after each inner step, or that of plain outputs."""
    if not isinstance(outputs, PerStep):
        return loss(outputs, batch)
    losses = jax.vmap(lambda of_step: loss(of_step, batch))(outputs.outputs)
    return (outputs.weights.astype(losses.dtype) * losses).sum()


def of_last_step(outputs: PyTree, batch: Batch, *, metrics: Callable[..., Metrics]) -> Metrics:
    """Compute the `metrics` after the last inner step, or those of plain outputs."""
    if isinstance(outputs, PerStep):
        outputs = jax.tree.map(lambda leaf: leaf[-1], outputs.outputs)
    return metrics(outputs, batch)


def step_weights(epoch: Array | int, steps: int, epochs: int) -> Array:
    """Compute the weights [step] of the losses after each of `steps` inner steps, in outer epoch `epoch` [].

    All are equal at first. In `epochs` epochs those before the last fall to 0.03 / steps in a straight line,
    for the benefit of the last; then the last step's loss alone counts.
    """
    epoch = jnp.asarray(epoch, float)
    early = jnp.maximum(1 / steps - epoch / (steps * epochs), 0.03 / steps)
    last = jnp.minimum(1 / steps + epoch * (steps - 1) / (steps * epochs), 1 - (steps - 1) * 0.03 / steps)
    is_last = jnp.arange(steps) == steps - 1
    annealed = jnp.where(is_last, last, early)
    return jnp.where(epoch < epochs, annealed, is_last.astype(annealed.dtype))


def maml_pp(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 5,
    test_inner_steps: int | None = None,
    multi_step_epochs: int = 10,
    first_order_epochs: int = 0,
    epoch_updates: int = 500,
    order: Order = "mixed",
    remat: Remat = "step",
    norm: Norm = "batch",
    test_loss: BatchLoss | None = None,
) -> Adapter:
    """Adapt all but normalization layers, with a learned rate for each array and step: MAML++.

    Normalization layers have a scale and offset for each inner step, which learn in the outer loop only. In
    training `predict` returns `PerStep` outputs: `jmeta.learner` needs loss and metrics of them, made of the
    usual ones by `functools.partial(multi_step, loss=...)` and `functools.partial(of_last_step,
    metrics=...)`, and the usual one as `test_loss`.

    Args:
      model: the network.
      loss: `(outputs, Batch) -> scalar`, the inner loss.
      inner_lr: initial value of the rates.
      inner_steps, test_inner_steps: number of inner steps in training and, if not None, at evaluation; steps
        beyond those of training have the rates and the normalization of the last one.
      multi_step_epochs: epochs in which the losses after all steps count, see `step_weights`; 0 for none.
      first_order_epochs: epochs with first-order derivatives, before those of `order`.
      epoch_updates: outer updates of an epoch.
      order, remat: see `jmeta.inner_loop`.
      norm: "batch", of the batch at hand, or "per_step", with running statistics of each step at evaluation;
        the query after a step is normalized with the entry of that step.
      test_loss: inner loss at evaluation, `loss` if None.

    Returns:
      An `Adapter` with meta-parameters {"params", "rule"}, of which normalization layers have a leading axis
      [step], and the model state {"model", "updates" []}, which counts the outer updates.

    Raises:
      TypeError: for what is no model.
      ValueError: for settings that mean nothing, and another `norm`.
    """
    require("maml_pp", "model", model, Model)
    test_steps = inner_steps if test_inner_steps is None else test_inner_steps
    for count in (inner_steps, test_steps):
        check_settings("maml_pp", count, order, remat)
    for name, number, least in (("inner_steps", inner_steps, 1), ("multi_step_epochs", multi_step_epochs, 0),
                                ("first_order_epochs", first_order_epochs, 0),
                                ("epoch_updates", epoch_updates, 1)):  # fmt: skip
        if number < least:
            raise ValueError(f"maml_pp: {name}={number}; expected at least {least}")
    if norm not in ("batch", "per_step"):
        raise ValueError(f"maml_pp: norm={norm!r}; expected 'batch' or 'per_step'")
    per_step = norm == "per_step"
    rule = sgd(inner_lr, learn="step_leaf", steps=inner_steps)
    steps = inner_steps

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_model, key_rule = jax.random.split(key)
        params, state = model.init(key_model, x)
        moving, still = split(params, is_no_norm, "maml_pp: adapted")
        params = merge(moving, stack_state(still, steps))
        state = stack_state(state, steps) if per_step else state
        meta = {"params": params, "rule": rule.init(key_rule, moving)}
        return meta, {"model": state, "updates": jnp.zeros((), jnp.int32)}

    def apply(
        params: PyTree, still: PyTree, state: PyTree, step: Array | int, x: PyTree, **options: Any
    ) -> tuple[PyTree, PyTree]:
        """Apply the network as of an inner step: (outputs, model state of the step)."""
        entry = step_state(state["model"], step) if per_step else state["model"]
        whole = merge(params, step_state(still, step))
        return apply_with_norm(model, norm, whole, entry, x, **options)

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key | None, *, train: bool
    ) -> tuple[Path, PyTree, Metrics]:
        moving, still = split(meta["params"], is_no_norm)
        chosen_loss = loss if train or test_loss is None else test_loss
        count = steps if train else test_steps

        def outputs_of(params: PyTree, step: Array | int) -> tuple[PyTree, PyTree]:
            noise = jax.random.fold_in(key, step) if train and key is not None else None
            options: dict[str, Any] = {"train": train, "key": noise, "mask": support.mask}
            return apply(params, still, state, step, support.x, **options)

        present = padded_ways(support, lambda: outputs_of(moving, 0)[0])

        def support_loss(params: PyTree, step: Array) -> tuple[Array, PyTree]:
            outputs, entry = outputs_of(params, step)
            return chosen_loss(mask_absent_ways(outputs, present), support), entry if per_step else None

        def run(order: Order) -> tuple[PyTree, Any]:
            collect = (lambda params, step, **of_step: params) if train and multi_step_epochs else None
            options: dict[str, Any] = {"order": order, "remat": remat, "collect": collect, "has_aux": True}
            return inner_loop(support_loss, rule, meta["rule"], moving, count, **options)

        if train and first_order_epochs and order != "first":
            first = state["updates"] < first_order_epochs * epoch_updates
            params, trace = lax.cond(first, lambda: run("first"), lambda: run(order))
        else:
            params, trace = run(order)
        info = {"support_loss": trace.losses[0]} if count else {}
        if not train:
            info["support_loss_adapted"], _ = support_loss(params, jnp.asarray(count, jnp.int32))
        elif per_step:
            state = {**state, "model": trace.aux}
        return Path(params, trace.collected, present), state, info

    def predict(
        meta: PyTree,
        fast: Path,
        state: PyTree,
        x: PyTree,
        key: Key | None,
        *,
        train: bool,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        _, still = split(meta["params"], is_no_norm)
        options: dict[str, Any] = {"train": train, "key": key if train else None, "mask": mask}
        # as of the step that the weights are the result of
        last = steps - 1 if train else max(min(test_steps, steps) - 1, 0)

        def after(params: PyTree, step: Array | int) -> tuple[PyTree, PyTree]:
            return apply(params, still, state, step, x, **options)

        if not train:
            return mask_absent_ways(after(fast.params, last)[0], fast.present), state
        updates = state["updates"]

        def after_last() -> tuple[PyTree, PyTree]:
            outputs, entry = after(fast.params, last)
            return outputs, set_step_state(state["model"], last, entry) if per_step else state["model"]

        def after_each() -> tuple[PyTree, PyTree]:
            outputs, entries = jax.vmap(after)(fast.after_steps, jnp.arange(steps, dtype=jnp.int32))
            return outputs, entries if per_step else state["model"]

        def after_last_of_each() -> tuple[PyTree, PyTree]:
            """Leave out the outputs that do not count any more; zeros stand in their place."""
            outputs, entries = after_last()
            rows = jax.tree.map(lambda o: jnp.zeros((steps, *o.shape), o.dtype).at[last].set(o), outputs)
            return rows, entries

        if multi_step_epochs:
            epoch = updates // epoch_updates
            outputs, entries = lax.cond(epoch < multi_step_epochs, after_each, after_last_of_each)
            weights = step_weights(epoch, steps, multi_step_epochs)
            outputs = PerStep(mask_absent_ways(outputs, fast.present), weights)
        else:
            outputs, entries = after_last()
            outputs = mask_absent_ways(outputs, fast.present)
        return outputs, {"model": entries, "updates": updates + 1}

    def learned(meta: PyTree) -> Metrics:
        rates = jnp.concatenate([leaf[None] for leaf in jax.tree.leaves(meta["rule"])])  # [array, step]
        return {f"mean_rate/step_{k}": rates[:, k].mean() for k in range(steps)}

    return Adapter(init, adapt, predict, learned=learned)
