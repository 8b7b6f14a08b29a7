"""Bridges between optax and rules: any transformation is an inner rule, any rule trains anything."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta.types import Array, Key, PyTree, Rule


class RuleState(NamedTuple):
    """State of a rule at work as an optax transformation: its `carry` and the number of `steps` [] taken."""

    carry: PyTree
    steps: Array


def from_optax(tx: optax.GradientTransformation) -> Rule:
    """Any optax transformation as an inner rule; its state is the rule's carry and nothing of it is learned.

    The loss is passed on as the extra argument `value`. A transformation whose update has no finite
    derivative at a zero gradient (Adam with `eps_root=0`) raises in exact and mixed order: `require_smooth`.
    """
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


def as_optax(rule: Rule, hyper: PyTree, key: Key | None = None) -> optax.GradientTransformationExtraArgs:
    """A rule with its (learned) `hyper` as an optax transformation, to train anything with.

    `key` goes to the rule's `start`. Rules that read the loss want it in the update's extra argument
    `value`: `tx.update(grads, state, params, value=loss)`; without it, or without parameters where it reads
    them, a learned rule raises ValueError, and so does one with rates that were learned on another network.
    """

    def init(params: PyTree) -> RuleState:
        return RuleState(rule.start(hyper, params, key), jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree,
        state: RuleState,
        params: PyTree = None,
        *,
        value: Array | None = None,
        **extra: Any,
    ) -> tuple[PyTree, RuleState]:
        updates, carry = rule.update(hyper, updates, state.carry, params, loss=value, step=state.steps)
        return updates, RuleState(carry, state.steps + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def require_smooth(rule: Rule, hyper: PyTree, params: PyTree) -> None:
    """Raise where a rule's update has no finite derivative at a zero gradient.

    An outer gradient through such a rule is NaN as soon as one coordinate's gradient is exactly zero (a dead
    ReLU is enough). Two steps at zero gradients are differentiated on the spot, at trace time; rules that
    have something to learn are not probed.

    Args:
      rule: the rule; hyper: its hyperparameters; params: what it updates, of which only shapes are read.

    Raises:
      ValueError: with the ways out.
    """
    if jax.tree.leaves(hyper):
        return
    with jax.ensure_compile_time_eval():
        ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), params)
        smooth = bool(_has_finite_derivative(rule, hyper, ones))
    if not smooth:
        raise ValueError(
            "the inner rule's update has no finite derivative at a zero gradient, so exact and mixed outer "
            "gradients become NaN; give the square root some room (optax.adam(rate, eps_root=1e-8), likewise "
            "for its relatives), or take order='first'"
        )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _has_finite_derivative(rule: Rule, hyper: PyTree, params: PyTree) -> Array:
    def moved(grads: PyTree) -> Array:
        carry, total = rule.start(hyper, params, jax.random.key(0)), jnp.zeros(())
        for step in range(2):
            updates, carry = rule.update(
                hyper, grads, carry, params, loss=jnp.ones(()), step=jnp.asarray(step, jnp.int32)
            )
            total += sum(leaf.sum().astype(total.dtype) for leaf in jax.tree.leaves(updates))
        return total

    slopes = jax.grad(moved)(jax.tree.map(jnp.zeros_like, params))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes)]).all()
