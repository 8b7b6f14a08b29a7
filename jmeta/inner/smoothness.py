"""A check that an inner rule can be differentiated through."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jmeta.types import Array, PyTree, Rule


def require_smooth(rule: Rule, hyper: PyTree, params: PyTree) -> None:
    """Raise if a rule's update has no finite derivative at a zero gradient.

    An outer gradient through such a rule is NaN as soon as one coordinate's gradient is exactly zero (a dead
    ReLU is enough). Two steps at zero gradients are differentiated on the spot, at trace time; rules with
    learned hyperparameters are not probed.

    Args:
      rule: the rule.
      hyper: its hyperparameters.
      params: the parameters that it updates, of which only shapes are read.

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
    def total_update(grads: PyTree) -> Array:
        carry, total = rule.start(hyper, params, jax.random.key(0)), jnp.zeros(())
        for step in range(2):
            updates, carry = rule.update(
                hyper, grads, carry, params, loss=jnp.ones(()), step=jnp.asarray(step, jnp.int32)
            )
            total += sum(leaf.sum().astype(total.dtype) for leaf in jax.tree.leaves(updates))
        return total

    slopes = jax.grad(total_update)(jax.tree.map(jnp.zeros_like, params))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes)]).all()
