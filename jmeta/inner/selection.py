"""Which parameters adapt: a tree in two parts, and the parts together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jmeta.types import PyTree

Selection = Callable[[str], bool] | Sequence[str]


def split(params: PyTree, selected: Selection | None, who: str = "adapted") -> tuple[PyTree, PyTree]:
    """The selected parameters and the others, both trees like `params` with None in the other's places.

    Args:
      params: the tree.
      selected: a predicate on paths ("conv_0/kernel"), or a list of paths and of whole leading parts of paths
        ("head"); None selects everything.
      who: what the selection is called in errors.

    Raises:
      ValueError: where nothing is selected, or a name of the list is no parameter's.
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
    """`moving` with the leaves of `still` where it has None."""
    return jax.tree.map(lambda m, s: s if m is None else m, moving, still, is_leaf=lambda leaf: leaf is None)
