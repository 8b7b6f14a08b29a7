"""What the learned rules that treat every coordinate alike have in common."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jmeta.checks import difference
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


def require_given(rule: str, **read: PyTree) -> None:
    """Raise where the rule of that name is at work without what it reads: `loss` or `parameters`, None.

    An inner loop gives both; a rule that is an optax transformation has to be given them.
    """
    for name, value in read.items():
        if value is None:
            raise ValueError(
                f"{rule}: no {name}; this rule reads the {name}: tx.update(grads, state, params, value=loss)"
            )


def require_rates_of(rule: str, rates: PyTree, params: PyTree) -> None:
    """Raise where learned `rates`, one a coordinate, were not learned on a network with these `params`."""
    found = difference(rates, params)
    if found:
        raise ValueError(
            f"{rule}: the rates belong to the network they were learned on; rates{found.where}: "
            f"{found.before}, of the parameters here: {found.after}; a rule that was learned without rates "
            "(learn_rates=False) trains other networks"
        )


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
