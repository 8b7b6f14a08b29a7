"""A rule on clipped gradients: by value, as TURTLE's and MAML's code clip them, or by their norm."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jmeta.parts import require
from jmeta.types import Array, PyTree, Rule


def clip_gradients(rule: Rule, limit: float, by: Literal["value", "norm"] = "value") -> Rule:
    """Wrap `rule` so that it sees clipped gradients.

    Args:
      rule: the rule.
      limit: the largest absolute value of a coordinate, or the largest norm of the whole gradient.
      by: "value" clips each coordinate to [-limit, limit], and the derivative through a clipped one is zero;
        "norm" scales the gradient to norm `limit` if it is longer, with a finite derivative at any finite
        gradient, zero included, which `optax.clip_by_global_norm` has not.

    Raises:
      TypeError: for what is no rule.
      ValueError: for a limit that is not positive, or an unknown `by`.
    """
    require("clip_gradients", "rule", rule, Rule)
    if not limit > 0:
        raise ValueError(f"clip_gradients: limit={limit}; expected a positive number")
    if by not in ("value", "norm"):
        raise ValueError(f"clip_gradients: by={by!r}; expected 'value' or 'norm'")
    clip = _by_value if by == "value" else _by_norm

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        return rule.update(hyper, clip(grads, limit), carry, params, loss=loss, step=step)

    return Rule(rule.init, rule.start, update)


def _by_value(grads: PyTree, limit: float) -> PyTree:
    return jax.tree.map(lambda g: jnp.clip(g, -limit, limit), grads)


def _by_norm(grads: PyTree, limit: float) -> PyTree:
    leaves = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in jax.tree.leaves(grads)]
    # In units of the largest coordinate no square overflows. The scale does not depend on the unit.
    largest = jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in leaves]).max()
    unit = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    square = sum(jnp.square(leaf / unit).sum() for leaf in leaves)
    long = square > jnp.square(limit / unit)
    # The root is taken where it is used only: its derivative at zero is infinite.
    scale = jnp.where(long, limit / unit / jnp.sqrt(jnp.where(long, square, 1)), 1)
    return jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads)
