"""Parameter trees: which leaves are selected, by path, and how two trees differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.types import PyTree

Selection = Callable[[str], bool] | Sequence[str]


def split(params: PyTree, selected: Selection | None, who: str = "adapted") -> tuple[PyTree, PyTree]:
    """Split a tree into the selected leaves and the others.

    Args:
      params: the tree.
      selected: a predicate on paths ("conv_0/kernel"), or a list of paths and of leading parts of paths
        ("head"); None selects everything.
      who: the name of the selection in errors.

    Returns:
      Two trees like `params`, each with None in place of the other's leaves.

    Raises:
      ValueError: if nothing is selected, or if an entry of the list names no parameter.
    """
    structure: Any = jax.tree.structure(params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    if selected is None:
        chosen = [True] * len(paths)
    elif callable(selected):
        chosen = [bool(selected(path)) for path in paths]
    else:
        within = {part: [path == part or path.startswith(f"{part}/") for path in paths] for part in selected}
        idle = [part for part, hits in within.items() if not any(hits)]
        if idle:
            raise ValueError(f"{who}={idle} names no parameter of {', '.join(paths)}")
        chosen = [any(hits) for hits in zip(*within.values())] if within else [False] * len(paths)
    if not any(chosen):
        raise ValueError(f"{who} selects no parameter of {', '.join(paths)}")
    moving = structure.unflatten(leaf if moves else None for (_, leaf), moves in zip(leaves, chosen))
    still = structure.unflatten(None if moves else leaf for (_, leaf), moves in zip(leaves, chosen))
    return moving, still


def merge(moving: PyTree, still: PyTree) -> PyTree:
    """Fill every None of `moving` with the leaf of `still` at the same place."""
    return jax.tree.map(lambda m, s: s if m is None else m, moving, still, is_leaf=lambda leaf: leaf is None)


def require_floating(name: str, params: PyTree) -> None:
    """Raise ValueError if a leaf of `params`, in errors called `name` and its path, is no floating array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", type(leaf))
        if dtype is not float and not jnp.issubdtype(dtype, jnp.floating):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{name} {where} is {getattr(dtype, '__name__', dtype)}{list(jnp.shape(leaf))}; expected "
                "floating arrays, which have gradients (counters and keys belong in the model state)"
            )


class Difference(NamedTuple):
    """The first mismatch of two trees: a `path` to append to a name, and `before` and `after` in words."""

    path: str
    before: str
    after: str


def difference(before: PyTree, after: PyTree) -> Difference | None:
    """Find the first difference of two trees in structure, shapes or types, or None if they agree."""
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


def require_same(name: str, before: PyTree, after: PyTree) -> None:
    """Raise ValueError if the state of a loop, `name`, changes its structure, shapes or types in a step."""
    change = difference(before, after)
    if change:
        raise ValueError(
            f"{name}{change.path} changes in a step from {change.before} to {change.after}; it must keep its "
            "structure, shapes and types"
        )


def modules(params: PyTree) -> dict[str, list[Any]]:
    """Group the leaves of a tree by their module, the path of a leaf without its own name ("conv_0").

    A leaf at the root is a module by itself.
    """
    groups: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        groups.setdefault(_module(path), []).append(leaf)
    return groups


def by_module(function: Callable[..., Any], params: PyTree, values: dict[str, Any], *rest: PyTree) -> PyTree:
    """Map `function(leaf, value, *leaves of rest)` over a tree, with the value of the leaf's module."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, *others: function(leaf, values[_module(path)], *others), params, *rest
    )


def _module(path: Any) -> str:
    return jax.tree_util.keystr(path[:-1] or path, simple=True, separator="/")
