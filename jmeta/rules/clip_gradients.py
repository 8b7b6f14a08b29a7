"""A rule on clipped gradients, as TURTLE's and MAML's code clip them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jmeta.types import Array, PyTree, Rule


def clip_gradients(rule: Rule, limit: float) -> Rule:
    """Wrap `rule` so that it sees gradients clipped elementwise to [-limit, limit].

    The derivative through a clipped coordinate is zero. Raises ValueError for a limit that is not positive.
    """
    if not limit > 0:
        raise ValueError(f"clip_gradients: limit={limit}; expected a positive number")

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        clipped = jax.tree.map(lambda g: jnp.clip(g, -limit, limit), grads)
        return rule.update(hyper, clipped, carry, params, loss=loss, step=step)

    return Rule(rule.init, rule.start, update)
