"""How alike two sets of vectors are."""

from __future__ import annotations

import jax.numpy as jnp

from jmeta.types import Array


def cosine(queries: Array, keys: Array) -> Array:
    """Cosine of each query [query, d] with each key [key, d]: [query, key].

    Finite in value and derivative where a vector is zero.
    """
    lengths = jnp.sqrt((jnp.square(queries).sum(1) + 1e-8)[:, None] * (jnp.square(keys).sum(1) + 1e-8)[None])
    return queries @ keys.T / lengths
