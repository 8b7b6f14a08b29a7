"""Checks that more than one loop makes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.types import PyTree


class Difference(NamedTuple):
    """What sets two pytrees apart, in words: `where`, as the end of a name, the one has `before`, the other
    `after`."""

    where: str
    before: str
    after: str


def difference(before: PyTree, after: PyTree) -> Difference | None:
    """The first difference of two pytrees in structure, shapes or types; None where there is none."""
    old: Any = jax.tree.structure(before)
    new: Any = jax.tree.structure(after)
    if old != new:
        return Difference("'s structure", str(old), str(new))
    leaves = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, a), b in leaves:
        a_type, b_type = jax.eval_shape(jnp.asarray, a), jax.eval_shape(jnp.asarray, b)
        if (a_type.shape, a_type.dtype) != (b_type.shape, b_type.dtype):
            words = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in (a_type, b_type)]
            return Difference(jax.tree_util.keystr(path), *words)
    return None


def require_same(what: str, before: PyTree, after: PyTree) -> None:
    """Raise ValueError where a loop's state, `what`, does not keep its structure, shapes and types."""
    found = difference(before, after)
    if found:
        raise ValueError(
            f"{what}{found.where} changes in a step from {found.before} to {found.after}; it must keep its "
            "structure, shapes and types"
        )
