"""Similarity of vectors."""

from __future__ import annotations

import jax.numpy as jnp

from jmeta.types import Array


def cosine(queries: Array, keys: Array) -> Array:
    """Compute the cosine of each query [query, d] with each key [key, d]: [query, key].

    Finite in value and derivative if a vector is zero.
    """
    # [query, key]
    lengths = jnp.sqrt((jnp.square(queries).sum(1) + 1e-8)[:, None] * (jnp.square(keys).sum(1) + 1e-8)[None])
    return queries @ keys.T / lengths
