"""What the learned rules that treat every coordinate alike have in common."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key, PyTree, Rule


def log_and_sign(values: Array, *, scale: float = 10.0) -> Array:
    """Values [...] of any magnitude as two numbers of order one, [..., 2].

    (log(|v| + 1e-8) / p, sign v) where |v| >= exp(-p), and (-1, exp(p) v) below, p = `scale` (Andrychowicz et
    al. 2016, App. A; with the 1e-8 of Ravi & Larochelle's code).
    """
    size = jnp.abs(values)
    large = size >= jnp.exp(-scale)
    first = jnp.where(large, jnp.log(size + 1e-8) / scale, -1.0)
    second = jnp.where(large, jnp.sign(values), jnp.exp(scale) * jnp.where(large, 0.0, values))
    return jnp.stack([first, second], axis=-1).astype(values.dtype)


def uniform(key: Key, shape: Sequence[int], bound: float, dtype: jnp.dtype) -> Array:
    """Uniform in [-bound, bound)."""
    return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)


def clip_gradients(rule: Rule, limit: float) -> Rule:
    """`rule` on gradients clamped elementwise to [-limit, limit], as TURTLE's and MAML's code clamp them.

    The derivative through a clamped coordinate is zero. Raises ValueError for a limit that is not positive.
    """
    if not limit > 0:
        raise ValueError(f"clip_gradients: limit={limit}; expected a positive number")

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        clipped = jax.tree.map(lambda g: jnp.clip(g, -limit, limit), grads)
        return rule.update(hyper, clipped, carry, params, loss=loss, step=step)

    return Rule(rule.init, rule.start, update)
