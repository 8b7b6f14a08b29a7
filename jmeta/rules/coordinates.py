"""Shared parts of the learned rules that treat every coordinate alike."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jmeta.tree import difference
from jmeta.types import Array, Key, PyTree


def log_and_sign(values: Array, *, scale: float = 10.0) -> Array:
    """Represent values [...] of any magnitude by two numbers of order one, [..., 2].

    (log(|v| + 1e-8) / p, sign v) if |v| >= exp(-p), and (-1, exp(p) v) below, p = `scale` (Andrychowicz et
    al. 2016, App. A; with the 1e-8 of Ravi & Larochelle's code).
    """
    size = jnp.abs(values)
    large = size >= jnp.exp(-scale)
    first = jnp.where(large, jnp.log(size + 1e-8) / scale, -1.0)
    second = jnp.where(large, jnp.sign(values), jnp.exp(scale) * jnp.where(large, 0.0, values))
    return jnp.stack([first, second], axis=-1).astype(values.dtype)


def uniform(key: Key, shape: Sequence[int], bound: float, dtype: jnp.dtype) -> Array:
    """Draw uniformly from [-bound, bound)."""
    return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)


def require_inputs(rule: str, **inputs: PyTree) -> None:
    """Raise ValueError, in the name of `rule`, if one of its inputs, `loss` or `parameters`, is None.

    An inner loop passes both; a caller of the rule as an optax transformation may forget them.
    """
    for name, value in inputs.items():
        if value is None:
            raise ValueError(
                f"{rule}: no {name}; this rule reads the {name}: tx.update(grads, state, params, value=loss)"
            )


def require_rates_of(rule: str, rates: PyTree, params: PyTree) -> None:
    """Raise ValueError if learned `rates`, one for each coordinate, do not fit a network with `params`."""
    mismatch = difference(rates, params)
    if mismatch:
        raise ValueError(
            f"{rule}: the rates belong to the network they were learned on; rates{mismatch.path}: "
            f"{mismatch.before}, of the parameters here: {mismatch.after}; a rule that was learned without "
            "rates (learn_rates=False) trains other networks"
        )
