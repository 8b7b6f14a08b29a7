"""Bridges between optax and rules: any transformation is an inner rule, any rule trains anything."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jmeta.parts import describe, require
from jmeta.types import Array, Key, PyTree, Rule


class RuleState(NamedTuple):
    """State of a rule used as an optax transformation: its `carry` and the number of `steps` [] taken."""

    carry: PyTree
    steps: Array


def from_optax(tx: optax.GradientTransformation) -> Rule:
    """Turn an optax transformation into an inner rule, without learned parts and with its state as the carry.

    The loss is passed on as the extra argument `value`. A transformation whose update has no finite
    derivative at a zero gradient (Adam with `eps_root=0`) raises in exact and mixed order: see
    `jmeta.inner.smoothness.require_smooth`.
    """
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"from_optax: got {describe(tx)}; expected an optax transformation")
    tx = optax.with_extra_args_support(tx)

    def init(key: Key, params: PyTree) -> PyTree:
        return ()

    def start(hyper: PyTree, params: PyTree, key: Key | None) -> PyTree:
        return tx.init(params)

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        return tx.update(grads, carry, params, value=loss)

    return Rule(init, start, update)


def adam(rate: float) -> Rule:
    """Return Adam with optax's defaults as an inner rule, for first-order inner loops (see `from_optax`)."""
    return from_optax(optax.adam(rate))


def as_optax(rule: Rule, hyper: PyTree, key: Key | None = None) -> optax.GradientTransformationExtraArgs:
    """Turn a rule with its (learned) `hyper` into an optax transformation, to train anything.

    Args:
      rule: the rule.
      hyper: its hyperparameters.
      key: for the rule's `start`.

    Returns:
      A transformation whose update takes the loss as the extra argument `value`:
      `tx.update(grads, state, params, value=loss)`. It raises ValueError if the rule reads the loss or the
      parameters and they are missing, or if it has rates that were learned on another network.

    Raises:
      TypeError: for what is no rule.
    """
    require("as_optax", "rule", rule, Rule)

    def init(params: PyTree) -> RuleState:
        return RuleState(rule.start(hyper, params, key), jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree,
        state: RuleState,
        params: PyTree = None,
        *,
        value: Array | float | None = None,
        **extra: Any,
    ) -> tuple[PyTree, RuleState]:
        value = None if value is None else jnp.asarray(value)
        updates, carry = rule.update(hyper, updates, state.carry, params, loss=value, step=state.steps)
        return updates, RuleState(carry, state.steps + 1)

    return optax.GradientTransformationExtraArgs(init, update)
