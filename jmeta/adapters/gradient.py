"""Adaptation by gradient descent: MAML, FOMAML, ANIL, BOIL and Meta-SGD are settings of this one adapter.

Finn et al., Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017; Raghu et al., Rapid
Learning or Feature Reuse? (ANIL), ICLR 2020; Oh et al., BOIL, ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.inner.gradient import Order, Remat, check_settings, inner_loop
from jmeta.inner.selection import Selection, merge, split
from jmeta.losses import mask_absent_ways, present_ways
from jmeta.models.normalisation import (
    Norm,
    apply_with_norm,
    check_norm,
    set_step_state,
    stack_state,
    step_state,
    support_state,
)
from jmeta.rules.bridge import require_smooth
from jmeta.types import Adapter, Array, Batch, Key, Metrics, Model, PyTree, Rule

Loss = Callable[[PyTree, Batch], Array]


class Adapted(NamedTuple):
    """What a task leaves behind: the adapted `params` (None where a leaf does not adapt), the `present` ways
    [way] where episodes are padded, and the support set's `statistics` under norm="support"."""

    params: PyTree
    present: Array | None
    statistics: PyTree


class AdaptedHead(NamedTuple):
    """Of a (body, head) pair: the adapted `head`, and the body's `statistics` under norm="support"."""

    head: Adapted
    statistics: PyTree


def gradient_adapter(
    model: Model | tuple[Model, Model],
    loss: Loss,
    rule: Rule,
    steps: int | None,
    *,
    test_steps: int | None = None,
    adapted: Selection | None = None,
    order: Order = "exact",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt a network to a task by `steps` steps of `rule`, each on the loss of the whole support set.

    The meta-parameters are {"params": the network's, "rule": what the rule learns}; of a pair, "params" and
    the model state are {"body", "head"}.

    Args:
      model: the network; or a pair (body, head), of which only the head adapts and whose body is computed
        once a task (ANIL).
      loss: `(outputs, Batch) -> scalar`, the inner loss.
      rule: the inner update rule: `sgd(0.01)`, `from_optax(tx)` or any other.
      steps: number of inner steps in training, each on the whole support set; None takes one step on each
        support example, in their order, as a stream shows them (OML, Javed & White 2019).
      test_steps: number of inner steps at evaluation; the same if None.
      adapted: which parameters adapt, by path ("conv_0/kernel"): a predicate on paths, or a list of paths and
        of whole leading parts of paths ("head"); None adapts everything. Not with a pair.
      order, remat: see `jmeta.inner_loop`.
      norm: what batch normalisation uses, see `jmeta.models.normalisation`. Under "running" the query pass of
        a network, and both passes of a pair's body, update the averages. Under "per_step" each of `steps`
        steps keeps its own, the query takes the last step's; for whole networks only.

    Returns:
      An `Adapter`. `info` has "support_loss", before adaptation, and at evaluation "support_loss_adapted".
      Where the support set has a mask and integer labels [example], logits [example, way] of ways without a
      real support example are masked. Noise is drawn in training only, anew at each inner step.

    Raises:
      ValueError: for settings that mean nothing or do not go together; at `init`, for a selection that
        selects nothing and for a rule that exact and mixed order cannot differentiate.
    """
    check_norm(norm)
    counts = (steps, steps if test_steps is None else test_steps)
    for count in counts:
        check_settings("gradient_adapter", 0 if count is None else count, order, remat)
    if steps is None and test_steps is not None:
        raise ValueError(
            f"gradient_adapter: test_steps={test_steps}; steps=None takes a step for each example"
        )
    if not isinstance(model, Model) and (adapted is not None or norm == "per_step"):
        raise ValueError(
            "gradient_adapter: of a (body, head) pair the head adapts, over features computed once; "
            "adapted and norm='per_step' need a whole network"
        )
    if norm == "per_step" and not steps:
        raise ValueError(
            "gradient_adapter: norm='per_step' keeps statistics for each of a number of steps; "
            f"steps={steps} has none"
        )
    if isinstance(model, Model):
        return _whole_network(model, loss, rule, counts, adapted, order, remat, norm)
    body, head = model
    return _over_body(body, _whole_network(head, loss, rule, counts, None, order, remat, norm), norm)


def anil(body: Model, head: Model, loss: Loss, rule: Rule, steps: int | None, **options: Any) -> Adapter:
    """ANIL (Raghu et al. 2020): inner steps on the head only; the `options` are `gradient_adapter`'s."""
    return gradient_adapter((body, head), loss, rule, steps, **options)


def _whole_network(
    model: Model,
    loss: Loss,
    rule: Rule,
    counts: tuple[int | None, int | None],
    adapted: Selection | None,
    order: Order,
    remat: Remat,
    norm: Norm,
) -> Adapter:
    """The adapter of one network; `counts` are its inner steps in training and at evaluation, None
    for one on each support example."""
    steps, test_steps = counts
    last = (steps or 1) - 1

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_model, key_rule = jax.random.split(key)
        params, state = model.init(key_model, x)
        moving, _ = split(params, adapted, "gradient_adapter: adapted")
        hyper = rule.init(key_rule, moving)
        if order != "first":
            require_smooth(rule, hyper, moving)
        state = stack_state(state, last + 1) if norm == "per_step" else state
        return {"params": params, "rule": hyper}, state

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key | None, *, train: bool
    ) -> tuple[Adapted, PyTree, Metrics]:
        moving, still = split(meta["params"], adapted)
        key_rule, key_noise = (None, None) if key is None else jax.random.split(key)
        present = _present_ways(model, meta["params"], _entry(state, norm, 0), support)

        def loss_on(shown: Batch, params: PyTree, step: Array) -> tuple[Array, PyTree]:
            noise = jax.random.fold_in(key_noise, step) if train and key_noise is not None else None
            outputs, entry = apply_with_norm(
                model,
                "batch" if norm == "support" else norm,  # of the support set these are the same
                merge(params, still),
                _entry(state, norm, step),
                shown.x,
                train=train,
                key=noise,
                mask=shown.mask,
            )
            return loss(_masked(outputs, present), shown), entry if norm == "per_step" else None

        def support_loss(params: PyTree, step: Array) -> tuple[Array, PyTree]:
            return loss_on(support if planned is not None else _example(support, step), params, step)

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
        return _masked(outputs, fast.present), state

    return Adapter(init=init, adapt=adapt, predict=predict)


def _over_body(body: Model, head: Adapter, norm: Norm) -> Adapter:
    """The adapter `head` at work on the features of a body that is shared by all tasks."""

    def of_head(meta: PyTree) -> PyTree:
        return {"params": meta["params"]["head"], "rule": meta["rule"]}

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_body, key_head = jax.random.split(key)
        params, state = body.init(key_body, x)
        shapes = jax.eval_shape(lambda: body.apply(params, state, x, train=True)[0])
        z = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        meta, head_state = head.init(key_head, z)
        meta = {"params": {"body": params, "head": meta["params"]}, "rule": meta["rule"]}
        return meta, {"body": state, "head": head_state}

    def encode(
        meta: PyTree,
        state: PyTree,
        x: PyTree,
        *,
        train: bool,
        key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        if norm == "support":  # features depend on the task's statistics: computed in adapt and predict
            return x, state
        params, noise = meta["params"]["body"], key if train else None
        z, entry = apply_with_norm(body, norm, params, state["body"], x, train=train, key=noise, mask=mask)
        return z, {**state, "body": entry}

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key | None, *, train: bool
    ) -> tuple[AdaptedHead, PyTree, Metrics]:
        statistics = None
        if norm == "support":
            params, x, mask = meta["params"]["body"], support.x, support.mask
            key, noise = (None, None) if key is None else jax.random.split(key)
            noise = noise if train else None
            statistics = support_state(body, params, state["body"], x, key=noise, mask=mask)
            z, _ = apply_with_norm(body, norm, params, statistics, x, train=train, key=noise, mask=mask)
            support = support._replace(x=z)
        fast, head_state, info = head.adapt(of_head(meta), state["head"], support, key, train=train)
        return AdaptedHead(fast, statistics), {**state, "head": head_state}, info

    def predict(
        meta: PyTree,
        fast: AdaptedHead,
        state: PyTree,
        x: PyTree,
        key: Key | None,
        *,
        train: bool,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        if norm == "support":
            params = meta["params"]["body"]
            key, noise = (None, None) if key is None else jax.random.split(key)
            noise = noise if train else None
            x, _ = apply_with_norm(body, norm, params, fast.statistics, x, train=train, key=noise, mask=mask)
        outputs, head_state = head.predict(
            of_head(meta), fast.head, state["head"], x, key, train=train, mask=mask
        )
        return outputs, {**state, "head": head_state}

    return Adapter(init=init, encode=encode, adapt=adapt, predict=predict)


def _example(batch: Batch, index: Array) -> Batch:
    """The batch (or stream) of example `index` [] alone."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index, 1), batch)


def _entry(state: PyTree, norm: Norm, step: Array | int) -> PyTree:
    return step_state(state, step) if norm == "per_step" else state


def _present_ways(model: Model, params: PyTree, state: PyTree, support: Batch) -> Array | None:
    """Which ways [way] have a real support example; None where nothing is padded or nothing is classified."""
    if support.mask is None or support.y.ndim != 1 or not jnp.issubdtype(support.y.dtype, jnp.integer):
        return None
    outputs = jax.eval_shape(lambda: model.apply(params, state, support.x, train=True, mask=support.mask)[0])
    return present_ways(support.y, outputs.shape[-1], support.mask) if outputs.ndim == 2 else None


def _masked(outputs: PyTree, present: Array | None) -> PyTree:
    return outputs if present is None else mask_absent_ways(outputs, present)
