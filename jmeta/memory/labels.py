"""Fed-back labels as inputs of a memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jmeta.bounds import require_within
from jmeta.types import Array


def require_feedback(who: str, feedback: Array, way: int) -> None:
    """Raise ValueError, in the name of `who`, for concrete feedback [...] outside -1..way - 1."""
    require_within(who, "feedback", feedback, -1, way - 1, f"-1 for no label or one of {way} label slots")


def one_hot_feedback(label: Array, way: int, dtype: jnp.dtype) -> Array:
    """Encode fed-back labels [...]: [..., way], zeros for -1 (no label).

    All is NaN if a label is outside -1..way - 1, so that it is not taken for no label.
    """
    valid = jnp.all((label >= -1) & (label < way))
    # A select, since a compiler may take the product of an indicator and NaN for one.
    return jnp.where(valid, jax.nn.one_hot(label, way, dtype=dtype), jnp.asarray(jnp.nan, dtype))
