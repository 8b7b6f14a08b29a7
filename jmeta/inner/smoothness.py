"""A check that an inner rule can be differentiated through."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax

from jmeta.types import Array, PyTree, Rule


def require_smooth(rule: Rule, hyper: PyTree, params: PyTree) -> None:
    """Raise if a rule's update has no finite derivative at a gradient with zeros, or at zero parameters.

    An outer gradient through such a rule is NaN as soon as an inner loop comes there: one coordinate whose
    gradient is exactly zero (a dead ReLU is enough), a gradient that vanishes altogether, a bias that starts
    at zero. Two steps are differentiated on the spot, at trace time; rules with learned hyperparameters are
    not probed.

    Args:
      rule: the rule.
      hyper: its hyperparameters.
      params: the parameters that it updates, of which only shapes are read.

    Raises:
      ValueError: with the transformation to blame, and the ways out.
    """
    if jax.tree.leaves(hyper):
        return
    with jax.ensure_compile_time_eval():
        for where, grads, weights in _probes(params):
            if not _has_finite_derivative(rule, hyper, grads, weights):
                name = _culprit(rule, hyper, grads, weights)
                raise ValueError(
                    f"the inner rule{name and f', in {name},'} has no finite derivative at {where}, so exact "
                    f"and mixed outer gradients become NaN; {_advice(name)}take order='first'"
                )


def _probes(params: PyTree) -> Iterator[tuple[str, PyTree, PyTree]]:
    """Make the gradients and the parameters to differentiate at, and say in words where that is."""
    ones, zeros = (
        jax.tree.map(lambda leaf, value=value: jnp.full(leaf.shape, value, leaf.dtype), params)
        for value in (1, 0)
    )
    halves = jax.tree.map(lambda leaf: leaf / 2, ones)
    dead = jax.tree.map(lambda g: g.at[(0,) * g.ndim].set(0) if g.size > 1 else g, halves)
    yield "a zero gradient of one coordinate", dead, ones
    yield "a zero gradient of all coordinates", zeros, ones
    yield "zero parameters", halves, zeros


def _total_update(rule: Rule, hyper: PyTree, grads: PyTree, params: PyTree) -> Array:
    carry, total = rule.start(hyper, params, jax.random.key(0)), jnp.zeros(())
    for step in range(2):
        updates, carry = rule.update(
            hyper, grads, carry, params, loss=jnp.ones(()), step=jnp.asarray(step, jnp.int32)
        )
        total += sum(leaf.sum().astype(total.dtype) for leaf in jax.tree.leaves(updates))
    return total


@functools.partial(jax.jit, static_argnums=(0, 1))
def _has_finite_derivative(rule: Rule, hyper: PyTree, grads: PyTree, params: PyTree) -> Array:
    slopes = jax.grad(_total_update, argnums=(2, 3))(rule, hyper, grads, params)
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes)]).all()


def _culprit(rule: Rule, hyper: PyTree, grads: PyTree, params: PyTree) -> str:
    """Find the function that returns the transformation whose derivative is NaN; "" if it cannot be told.

    A derivative that is taken forward is computed inside the transformation itself, so that its first NaN
    interrupts it there.
    """

    def update(grads: PyTree, params: PyTree) -> Array:
        return _total_update(rule, hyper, grads, params)

    tangents = jax.tree.map(jnp.ones_like, (grads, params))
    try:
        with jax.disable_jit(), jax.debug_nans(True):
            jax.jvp(update, (grads, params), tangents)
    except FloatingPointError as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        names = [
            frame.f_code.co_qualname
            for frame in frames
            if frame.f_globals.get("__name__", "").partition(".")[0] != "jax"
            and frame.f_globals.get("__name__") != __name__
        ]
        return next((name.partition(".")[0] for name in reversed(names) if ".<locals>." in name), "")
    return ""


def _advice(name: str) -> str:
    """Write what to do about a transformation, as the beginning of a sentence."""
    factory = getattr(optax, name, None) if name else None
    settings = inspect.signature(factory).parameters if callable(factory) else {}
    if "eps_root" in settings:
        return "give its square root some room (eps_root=1e-8, as in optax.adam(rate, eps_root=1e-8)), or "
    if "eps_in_sqrt" in settings:
        return "give its square root some room (eps_in_sqrt=True), or "
    if "clip" in name or "norm" in name:
        return "bound the norm by jmeta.clip_gradients(rule, limit, by='norm'), whose root is safe, or "
    return "give its square roots and quotients some room, or "
