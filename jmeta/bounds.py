"""Integers that must lie in a range: concrete ones raise, traced ones make a result NaN."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.types import Array


def is_concrete(values: Any) -> bool:
    """Return True if the numbers `values` can be read: no tracer, and no part of them in another process."""
    return not isinstance(values, jax.core.Tracer) and getattr(values, "is_fully_addressable", True)


def require_within(who: str, what: str, values: Any, low: int, high: int, reason: str) -> None:
    """Raise ValueError in the name of `who` if concrete integers are outside low..high.

    `what` names the values, and `reason` says what the range comes from. Traced values are not checked.
    """
    if not is_concrete(values):
        return
    numbers = np.asarray(values)
    if not numbers.size or (low <= numbers.min() and numbers.max() <= high):
        return
    least, most = int(numbers.min()), int(numbers.max())
    run = f"is {least}" if least == most else f"run from {least} to {most}"
    raise ValueError(f"{who}: {what} {run}; expected {low}..{high}, {reason}")


def one_or_nan(valid: Array | bool) -> Array:
    """Return 1 if all of `valid` is true, else NaN: a factor that keeps or spoils value and gradient."""
    return jnp.where(jnp.all(valid), jnp.float32(1), jnp.float32(jnp.nan))


def spoil(tree: Any, factor: Array) -> Any:
    """Multiply the floating leaves of a tree by a `factor` [] of `one_or_nan`."""

    def scale(leaf: Array) -> Array:
        return leaf * factor.astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(scale, tree)


def labels_factor(who: str, labels: Array, way: int, mask: Array | None = None) -> Array:
    """Return 1, or NaN if the label of a real example is outside 0..way - 1; ValueError if it is concrete.

    `labels` are integers [example, ...]; `mask` [example] is 0 for padding, whose labels are free.
    """
    reason = f"one label for each of {way} ways"
    valid = (labels >= 0) & (labels < way)
    if mask is None:
        require_within(who, "labels", labels, 0, way - 1, reason)
        return one_or_nan(valid)
    require_mask(mask, labels.shape[0])
    if is_concrete(labels) and is_concrete(mask):
        require_within(who, "labels", np.asarray(labels)[np.asarray(mask) > 0], 0, way - 1, reason)
    padding = jnp.reshape(mask == 0, (-1, *[1] * (labels.ndim - 1)))
    return one_or_nan(valid | padding)


def require_mask(mask: Array, count: int) -> None:
    """Raise ValueError unless a mask has one number for each of `count` examples."""
    if mask.shape != (count,):
        raise ValueError(f"a mask of shape {mask.shape} for {count} examples; expected [{count}]")
