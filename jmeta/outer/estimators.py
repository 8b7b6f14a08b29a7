"""Outer gradients of one task other than that of its query loss; for `learner(task_grad=...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key, PyTree, Task


def clamped(limit: float, *, within: str | None = None) -> Callable[..., Any]:
    """Each task's gradient clamped elementwise to [-limit, limit] before tasks are reduced.

    Finn et al.'s and Huisman et al.'s code clamp so; the latter the initial weights' gradient alone:
    within="params" clamps the entry of that name of the meta-parameters. Raises ValueError for a limit that
    is not positive; at work, for meta-parameters without such an entry.
    """
    if not limit > 0:
        raise ValueError(f"clamped: limit={limit}; expected a positive number")

    def clamp(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -limit, limit), tree)

    def task_grad(
        objective: Callable[..., Any], meta: PyTree, state: PyTree, task: Task, key: Key
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        value, gradient = jax.value_and_grad(objective, has_aux=True)(meta, state, task, key)
        if within is None:
            return value, clamp(gradient)
        if within not in gradient:
            raise ValueError(
                f"clamped: within={within!r}; the meta-parameters are {', '.join(map(repr, gradient))}"
            )
        return value, {**gradient, within: clamp(gradient[within])}

    return task_grad
