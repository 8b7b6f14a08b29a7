"""Gradient descent with a fixed or a meta-learned rate, as an inner update rule."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key, PyTree, Rule

_LEARN = (None, "scalar", "leaf", "element", "step_leaf")


def sgd(
    rate: float | Array,
    *,
    learn: Literal["scalar", "leaf", "element", "step_leaf"] | None = None,
    steps: int | None = None,
) -> Rule:
    """Build gradient descent, w <- w - rate * g.

    Args:
      rate: the learning rate, initially if it is learned.
      learn: the meta-learned form of the rate, in `hyper`: None (`hyper` is `()`); "scalar", one number [];
        "leaf", a number [] for each parameter array; "element", an array of the parameter's shape
        (Meta-SGD, Li et al. 2017; may turn negative); "step_leaf", numbers [steps] for each parameter array
        (MAML++, Antoniou et al. 2019).
      steps: number of steps that have a rate of their own under "step_leaf"; later steps keep the last one.

    Returns:
      A `Rule` without carry.

    Raises:
      ValueError: for an unknown `learn`, for "step_leaf" without `steps`, or for `steps` without it.
    """
    if learn not in _LEARN:
        raise ValueError(f"sgd: learn={learn!r}; expected one of {', '.join(map(repr, _LEARN))}")
    if learn == "step_leaf" and (steps is None or steps < 1):
        raise ValueError(f"sgd: steps={steps}; learn='step_leaf' needs the number of inner steps, at least 1")
    if learn != "step_leaf" and steps is not None:
        raise ValueError(f"sgd: steps={steps} is an option of learn='step_leaf' only; leave it out")
    shape_of = {
        "leaf": lambda leaf: (),
        "element": lambda leaf: leaf.shape,
        "step_leaf": lambda leaf: (steps,),
    }

    def init(key: Key, params: PyTree) -> PyTree:
        if learn is None:
            return ()
        if learn == "scalar":
            return jnp.full((), rate, jnp.result_type(*jax.tree.leaves(params)))
        return jax.tree.map(lambda leaf: jnp.full(shape_of[learn](leaf), rate, leaf.dtype), params)

    def start(hyper: PyTree, params: PyTree, key: Key | None) -> PyTree:
        return ()

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        if learn is None:
            return jax.tree.map(lambda g: -rate * g, grads), carry
        if learn == "scalar":
            return jax.tree.map(lambda g: -hyper.astype(g.dtype) * g, grads), carry
        rates = hyper
        if learn == "step_leaf":
            rates = jax.tree.map(lambda r: r[jnp.minimum(step, r.shape[0] - 1)], hyper)
        return jax.tree.map(lambda r, g: -r * g, rates, grads), carry

    return Rule(init, start, update)
