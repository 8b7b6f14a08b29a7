"""The gradient inner loop: K steps of a rule on a task's loss, differentiable in everything it depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta.inner.smoothness import require_smooth
from jmeta.parts import require
from jmeta.tree import require_floating, require_same
from jmeta.types import Array, Key, PyTree, Rule

Order = Literal["exact", "mixed", "first"]
Remat = Literal["step", "none"]


class Trace(NamedTuple):
    """The record of an inner loop.

    `losses` [step] before each update, as constants for reporting; the rule's last `carry`; the results of
    `collect`, `collected`, and the loss's second outputs, `aux`, with leaves [step, ...].
    """

    losses: Array
    carry: PyTree
    collected: PyTree
    aux: PyTree


def inner_loop(
    loss_fn: Callable[[PyTree, Array], Any],
    rule: Rule,
    hyper: PyTree,
    params: PyTree,
    steps: int,
    *,
    order: Order = "exact",
    remat: Remat = "step",
    key: Key | None = None,
    collect: Callable[..., PyTree] | None = None,
    has_aux: bool = False,
) -> tuple[PyTree, Trace]:
    """Take `steps` steps of `rule` down `loss_fn` from `params` (the inner loop of MAML, Finn et al. 2017).

    Args:
      loss_fn: `(params, step [] int32) -> scalar`, or `(scalar, aux)` under `has_aux`; everything that it
        closes over (data, features, other parameters) is differentiated too. `aux` is a constant.
      rule: the update rule, with its meta-learned `hyper`.
      params: the initial parameters.
      steps: number of steps, static; 0 adapts nothing.
      order: "exact" differentiates through every step. "mixed" is as exact, with the reverse pass of each
        inner gradient taken forward over reverse, one Hessian-vector product a step (Kemaev et al. 2025,
        MixFlow-MG). "first" stops the gradient and the loss that enter the rule, and nothing else: rates and
        other learned parts of the rule still learn, through all steps.
      remat: "step" recomputes a step in the reverse pass instead of storing its intermediates, so that memory
        does not grow with `steps` beyond one copy of the parameters each; "none" stores them. In mixed and
        first order only the rule itself is recomputed: the inner gradient stores nothing anyway.
      key: for the rule's `start`.
      collect: `(params, step, *, loss, grads, carry) -> pytree`, called at each step with the parameters and
        the carry after its update, and the loss and gradient before it; differentiable.
      has_aux: whether `loss_fn` returns `aux`.

    Returns:
      The adapted parameters and a `Trace`; differentiable in `params`, `hyper` and everything that `loss_fn`
      closes over.

    Raises:
      TypeError: for what is no rule.
      ValueError: for unknown settings, parameters that are not floating arrays, a rule whose carry or
        parameters change shape or type from step to step, and, in exact and mixed order, a rule without a
        finite derivative at a zero gradient.
    """
    check_settings("inner_loop", steps, order, remat)
    require("inner_loop", "rule", rule, Rule)
    require_floating("inner_loop: the parameter", params)
    params = jax.tree.map(jnp.asarray, params)
    if order != "first":
        require_smooth(rule, hyper, params)
    carry = jax.tree.map(jnp.asarray, rule.start(hyper, params, key))
    loss_and_aux = loss_fn if has_aux else lambda params, step: (loss_fn(params, step), None)
    measure = (
        _mixed_value_and_grad(loss_and_aux, params)
        if order == "mixed"
        else jax.value_and_grad(loss_and_aux, has_aux=True)
    )

    def advance(params: PyTree, carry: PyTree, loss: Array, grads: PyTree, step: Array) -> tuple:
        updates, new_carry = rule.update(hyper, grads, carry, params, loss=loss, step=step)
        new_params = optax.apply_updates(params, updates)
        require_same("inner_loop: the parameters", params, new_params)
        require_same("inner_loop: the rule's carry", carry, new_carry)
        collected = collect(new_params, step, loss=loss, grads=grads, carry=new_carry) if collect else None
        return new_params, new_carry, collected

    if remat == "step" and order != "exact":
        advance = jax.checkpoint(advance, prevent_cse=False)

    def take_step(state: tuple[PyTree, PyTree], step: Array) -> tuple[tuple[PyTree, PyTree], tuple]:
        params, carry = state
        (loss, aux), grads = measure(params, step)
        if order == "first":
            loss, grads = jax.lax.stop_gradient((loss, grads))
        params, carry, collected = advance(params, carry, loss, grads, step)
        return (params, carry), (*jax.lax.stop_gradient((loss, aux)), collected)

    if remat == "step" and order == "exact":
        take_step = jax.checkpoint(take_step, prevent_cse=False)
    index = jnp.arange(steps, dtype=jnp.int32)
    (params, carry), (losses, aux, collected) = jax.lax.scan(take_step, (params, carry), index)
    return params, Trace(losses, carry, collected, aux)


def check_settings(who: str, steps: int, order: str, remat: str) -> None:
    """Raise ValueError, in the name of `who`, for invalid settings of an inner loop."""
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(
            f"{who}: steps={steps!r}; expected a whole number of at least 0, known when compiled"
        )
    if order not in ("exact", "mixed", "first"):
        raise ValueError(f"{who}: order={order!r}; expected 'exact', 'mixed' or 'first'")
    if remat not in ("step", "none"):
        raise ValueError(f"{who}: remat={remat!r}; expected 'step' or 'none'")


def _mixed_value_and_grad(
    loss_and_aux: Callable[[PyTree, Array], tuple[Array, PyTree]], params: PyTree
) -> Callable[[PyTree, Array], tuple[tuple[Array, PyTree], PyTree]]:
    """Return `jax.value_and_grad` of the loss, with a reverse pass that runs forward over reverse.

    For a cotangent v of the gradient, the cotangents of parameters and of everything the loss closes over are
    the directional derivative along v of the gradient with respect to both: mixed derivatives commute. A
    custom rule may not close over traced values, so they are hoisted out of the loss into `consts`.
    """
    step = jnp.zeros((), jnp.int32)
    traced, shape = jax.make_jaxpr(lambda p, k: loss_and_aux(p, k), return_shape=True)(params, step)
    structure = jax.tree.structure(shape)

    def evaluate(params: PyTree, consts: list[Array], step: Array) -> tuple[Array, PyTree]:
        flat = jax.core.eval_jaxpr(traced.jaxpr, consts, *jax.tree.leaves(params), step)
        return jax.tree.unflatten(structure, flat)

    @jax.custom_vjp
    def value_and_grad(params: PyTree, consts: list[Array], step: Array) -> tuple:
        return jax.value_and_grad(evaluate, has_aux=True)(params, consts, step)

    def forward(params: PyTree, consts: list, step: Any) -> tuple:
        moving = [c.value if c.perturbed and _is_inexact(c.value) else None for c in consts]
        params, consts, step = jax.tree.map(lambda leaf: leaf.value, (params, consts, step))
        still = [c if m is None else None for c, m in zip(consts, moving)]
        return value_and_grad(params, consts, step), (params, moving, still, step)

    def backward(saved: tuple, cotangents: tuple) -> tuple:
        params, moving, still, step = saved
        (loss_bar, _), grads_bar = cotangents

        def loss(params: PyTree, moving: list) -> Array:
            consts = [s if m is None else m for m, s in zip(moving, still)]
            return evaluate(params, consts, step)[0]

        along = jax.tree.map(_materialize, grads_bar, is_leaf=_is_symbolic_zero)
        gradient = jax.grad(loss, argnums=(0, 1))
        slopes, bars = jax.jvp(lambda p: gradient(p, moving), (params,), (along,))
        if not _is_symbolic_zero(loss_bar):
            bars = jax.tree.map(lambda bar, slope: bar + loss_bar * slope, bars, slopes)
        return *bars, None

    value_and_grad.defvjp(forward, backward, symbolic_zeros=True)
    return lambda params, step: value_and_grad(params, traced.consts, step)


def _is_inexact(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_symbolic_zero(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.SymbolicZero)


def _materialize(leaf: Any) -> Array:
    return jnp.zeros(leaf.shape, leaf.dtype) if _is_symbolic_zero(leaf) else leaf
