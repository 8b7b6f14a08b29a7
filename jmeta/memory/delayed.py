"""What a delay withholds: a queue of features whose labels have not arrived yet."""

from __future__ import annotations

import jax.numpy as jnp

from jmeta.types import Array


def empty_queue(delay: int, size: int, dtype: jnp.dtype) -> Array:
    """A queue [delay, size] of features that wait for their label."""
    return jnp.zeros((delay, size), dtype)


def push(queue: Array, features: Array) -> Array:
    """The queue with `features` [size] at its end and without its oldest entry, whose label has come."""
    return jnp.concatenate([queue[1:], features[None]])
