"""A queue of features whose labels have not arrived yet."""

from __future__ import annotations

import jax.numpy as jnp

from jmeta.types import Array


def empty_queue(delay: int, size: int, dtype: jnp.dtype) -> Array:
    """Return a queue [delay, size] of zeros."""
    return jnp.zeros((delay, size), dtype)


def enqueue(queue: Array, features: Array) -> Array:
    """Append `features` [size] and drop the oldest entry, whose label has arrived."""
    return jnp.concatenate([queue[1:], features[None]])
