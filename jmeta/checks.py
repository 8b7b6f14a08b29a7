"""Checks that more than one loop makes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jmeta.types import PyTree


def require_same(what: str, before: PyTree, after: PyTree) -> None:
    """Raise ValueError where a loop's state, `what`, does not keep its structure, shapes and types."""
    old: Any = jax.tree.structure(before)
    new: Any = jax.tree.structure(after)
    if old != new:
        raise ValueError(f"{what} changes its structure in a step, from {old} to {new}")
    leaves = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, a), b in leaves:
        b_type = jax.eval_shape(jnp.asarray, b)
        if (a.shape, a.dtype) != (b_type.shape, b_type.dtype):
            raise ValueError(
                f"{what}{jax.tree_util.keystr(path)} changes in a step from {a.dtype}{list(a.shape)} to "
                f"{b_type.dtype}{list(b_type.shape)}; it must keep its shape and type"
            )
