"""Outer gradients of one task that are not the gradient of its query loss, for `learner(task_grad=...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key, Metrics, PyTree, Task


class Outcome(NamedTuple):
    """What running a task leaves besides its loss: the new model `state`, its `metrics`, and `fast`, what was
    adapted (of an adapter its fast weights, of a memory its last carry)."""

    state: PyTree
    metrics: Metrics
    fast: PyTree


def clip_task_gradients(limit: float, *, within: str | None = None) -> Callable[..., Any]:
    """Clip each task's gradient elementwise to [-limit, limit] before tasks are reduced.

    As in the code of Finn et al. and of Huisman et al.; the latter clips the gradient of the initial weights
    alone: within="params" clips only the entry of that name of the meta-parameters. Raises ValueError for a
    limit that is not positive and, when it is called, for meta-parameters without such an entry.
    """
    if not limit > 0:
        raise ValueError(f"clip_task_gradients: limit={limit}; expected a positive number")

    def clip(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -limit, limit), tree)

    def task_grad(
        objective: Callable[..., Any], meta: PyTree, state: PyTree, task: Task, key: Key
    ) -> tuple[tuple[Array, Outcome], PyTree]:
        value, gradient = jax.value_and_grad(objective, has_aux=True)(meta, state, task, key)
        if within is None:
            return value, clip(gradient)
        if within not in gradient:
            entries = ", ".join(map(repr, gradient))
            raise ValueError(f"clip_task_gradients: within={within!r}; the meta-parameters are {entries}")
        return value, {**gradient, within: clip(gradient[within])}

    return task_grad
