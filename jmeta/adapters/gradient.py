"""Adaptation of a whole network by steps of an inner rule.

Finn et al., Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017; Oh et al., BOIL,
ICLR 2021. MAML, FOMAML, BOIL, Meta-SGD and sparse-MAML are settings of this one adapter.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.inner.gradient import Order, Remat, check_settings, inner_loop
from jmeta.inner.smoothness import require_smooth
from jmeta.losses import mask_absent_ways, padded_ways
from jmeta.models.norm_policy import (
    Norm,
    apply_with_norm,
    check_norm,
    check_other_norm,
    set_step_state,
    stack_state,
    step_state,
    support_state,
)
from jmeta.parts import named_arguments, require
from jmeta.tree import Selection, merge, require_floating, split
from jmeta.types import Adapter, Array, Batch, BatchLoss, Key, Metrics, Model, PyTree, Rule

_LAST = 2**31 - 1  # beyond every step


class Adapted(NamedTuple):
    """A network adapted to a task: the adapted `params` (None for a leaf that does not adapt), the `present`
    ways [way] if episodes are padded (else None), and the support set's `statistics` under norm="support"."""

    params: PyTree
    present: Array | None
    statistics: PyTree


def gradient_adapter(
    model: Model,
    loss: BatchLoss,
    rule: Rule,
    steps: int | None,
    *,
    test_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    adapted: Selection | None = None,
    order: Order = "exact",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt a network to a task by `steps` steps of `rule`, each on the loss of the whole support set.

    The meta-parameters are {"params": the network's, "rule": what the rule learns}. To adapt a head alone, on
    features computed once a task, see `jmeta.anil`.

    Args:
      model: the network.
      loss: `(outputs, Batch) -> scalar`, the inner loss. It may also ask by name for `params`, the network's
        parameters at this step; `start`, those that the inner loop starts from; `meta`, the meta-parameters;
        and `step` [] int32. `lambda outputs, batch, *, params, start: ...` can hold the weights near their
        start (iMAML, Rajeswaran et al. 2019), say.
      rule: the inner update rule: `sgd(0.01)`, `from_optax(tx)` or any other.
      steps: number of inner steps in training, each on the whole support set; None takes one step on each
        support example, in their order, as a stream shows them (OML, Javed & White 2019).
      test_steps: number of inner steps at evaluation; the same if None.
      test_loss: inner loss at evaluation, `loss` if None (which may smooth labels, say).
      adapted: which parameters adapt, by path ("conv_0/kernel"): a predicate on paths, or a list of paths and
        of whole leading parts of paths ("head"); None adapts everything.
      order, remat: see `jmeta.inner_loop`.
      norm: statistics of batch normalization, see `jmeta.models.norm_policy`. Under "running" the query pass
        updates the averages. Under "per_step" each of `steps` steps keeps its own, and the query takes the
        last step's.

    Returns:
      An `Adapter`. `info` has "support_loss", before adaptation, and at evaluation "support_loss_adapted".
      If the support set has a mask and integer labels [example], logits [example, way] of ways without a real
      support example are masked. Noise is drawn in training only, anew at each inner step.

    Raises:
      TypeError: for what is no model or no rule.
      ValueError: for settings that mean nothing or do not go together; at `init`, for a selection that
        selects nothing or what is not floating, and for a rule that exact and mixed order cannot
        differentiate.
    """
    require("gradient_adapter", "model", model, Model)
    require("gradient_adapter", "rule", rule, Rule)
    check_norm(norm)
    counts = (steps, steps if test_steps is None else test_steps)
    for count in counts:
        check_settings("gradient_adapter", 0 if count is None else count, order, remat)
    if steps is None and test_steps is not None:
        raise ValueError(
            f"gradient_adapter: test_steps={test_steps}; steps=None takes a step for each example"
        )
    if norm == "per_step" and not steps:
        raise ValueError(
            "gradient_adapter: norm='per_step' keeps statistics for each of a number of steps; "
            f"steps={steps} has none"
        )
    steps, test_steps = counts
    last = (steps or 1) - 1

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_model, key_rule = jax.random.split(key)
        params, state = model.init(key_model, x)
        moving, _ = split(params, adapted, "gradient_adapter: adapted")
        require_floating("gradient_adapter: the parameter", moving)
        hyper = rule.init(key_rule, moving)
        if order != "first":
            require_smooth(rule, hyper, moving)
        state = stack_state(state, last + 1) if norm == "per_step" else state
        return {"params": params, "rule": hyper}, state

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key | None, *, train: bool
    ) -> tuple[Adapted, PyTree, Metrics]:
        moving, still = split(meta["params"], adapted)
        chosen_loss = loss if train or test_loss is None else test_loss
        key_rule, key_noise = (None, None) if key is None else jax.random.split(key)
        present = _present_ways(model, meta["params"], _entry(state, norm, 0), support)

        def loss_on(batch: Batch, params: PyTree, step: Array) -> tuple[Array, PyTree]:
            noise = jax.random.fold_in(key_noise, step) if train and key_noise is not None else None
            params = merge(params, still)
            outputs, entry = apply_with_norm(
                model,
                "batch" if norm == "support" else norm,  # of the support set these are the same
                params,
                _entry(state, norm, step),
                batch.x,
                train=train,
                key=noise,
                mask=batch.mask,
            )
            asked = named_arguments(chosen_loss, params=params, start=meta["params"], meta=meta, step=step)
            value = chosen_loss(mask_absent_ways(outputs, present), batch, **asked)
            return value, entry if norm == "per_step" else None

        def support_loss(params: PyTree, step: Array) -> tuple[Array, PyTree]:
            return loss_on(support if planned is not None else single_example(support, step), params, step)

        planned = steps if train else test_steps
        count = jax.tree.leaves(support.x)[0].shape[0] if planned is None else planned
        settings: dict[str, Any] = {"order": order, "remat": remat, "key": key_rule, "has_aux": True}
        fast, trace = inner_loop(support_loss, rule, meta["rule"], moving, count, **settings)
        info = {"support_loss": trace.losses[0]} if count else {}
        if not train:
            info["support_loss_adapted"], _ = loss_on(support, fast, jnp.asarray(count, jnp.int32))
        statistics = None
        if norm == "support":
            noise = key_noise if train else None
            params = merge(fast, still)
            statistics = support_state(model, params, state, support.x, key=noise, mask=support.mask)
        return Adapted(fast, present, statistics), trace.aux if norm == "per_step" and train else state, info

    def predict(
        meta: PyTree,
        fast: Adapted,
        state: PyTree,
        x: PyTree,
        key: Key | None,
        *,
        train: bool,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        _, still = split(meta["params"], adapted)
        entry = fast.statistics if norm == "support" else _entry(state, norm, last)
        outputs, entry = apply_with_norm(
            model,
            norm,
            merge(fast.params, still),
            entry,
            x,
            train=train,
            key=key if train else None,
            mask=mask,
        )
        if norm == "per_step" and train:
            state = set_step_state(state, last, entry)
        elif norm == "running":
            state = entry
        return mask_absent_ways(outputs, fast.present), state

    @functools.cache  # programs are compiled once for each adapter
    def with_norm(other: Norm) -> Adapter:
        check_other_norm(norm, other)
        options: dict[str, Any] = {"test_steps": test_steps, "test_loss": test_loss, "adapted": adapted}
        options |= {"order": order, "remat": remat, "norm": other}
        adapter = gradient_adapter(model, loss, rule, steps, **options)
        return _on_last_entry(adapter) if norm == "per_step" and other != norm else adapter

    return Adapter(init=init, adapt=adapt, predict=predict, with_norm=with_norm)


def _on_last_entry(adapter: Adapter) -> Adapter:
    """Give `adapter` the last of the model states that norm="per_step" has learned."""

    def adapt(meta: PyTree, state: PyTree, *rest: Any, **options: Any) -> tuple[PyTree, PyTree, Metrics]:
        fast, _, info = adapter.adapt(meta, step_state(state, _LAST), *rest, **options)
        return fast, state, info

    def predict(
        meta: PyTree, fast: PyTree, state: PyTree, *rest: Any, **options: Any
    ) -> tuple[PyTree, PyTree]:
        return adapter.predict(meta, fast, step_state(state, _LAST), *rest, **options)[0], state

    return adapter._replace(adapt=adapt, predict=predict)


def single_example(batch: Batch, index: Array) -> Batch:
    """Take example `index` [] of a batch or stream, as a batch of one."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index, 1), batch)


def _entry(state: PyTree, norm: Norm, step: Array | int) -> PyTree:
    return step_state(state, step) if norm == "per_step" else state


def _present_ways(model: Model, params: PyTree, state: PyTree, support: Batch) -> Array | None:
    """Find the ways [way] with a real support example; None if nothing is padded or classified."""
    x, mask = support.x, support.mask
    return padded_ways(support, lambda: model.apply(params, state, x, train=True, mask=mask)[0])
