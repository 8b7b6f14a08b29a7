"""Gradient descent with a fixed or a meta-learned rate, as an inner update rule."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key, PyTree, Rule

_LEARN = (None, "scalar", "leaf", "element", "step_leaf")


def sgd(
    rate: float | Array | tuple[float, float],
    *,
    learn: Literal["scalar", "leaf", "element", "step_leaf"] | None = None,
    steps: int | None = None,
) -> Rule:
    """Build gradient descent, w <- w - rate * g.

    Args:
      rate: the learning rate, initially if it is learned; two numbers draw each learned rate uniformly from
        [low, high).
      learn: the meta-learned form of the rate, in `hyper`: None (`hyper` is `()`); "scalar", one number [];
        "leaf", a number [] for each parameter array; "element", an array of the parameter's shape
        (Meta-SGD, Li et al. 2017; may turn negative); "step_leaf", numbers [steps] for each parameter array
        (MAML++, Antoniou et al. 2019).
      steps: number of steps that have a rate of their own under "step_leaf"; later steps keep the last one.

    Returns:
      A `Rule` without carry.

    Raises:
      ValueError: for an unknown `learn`, for "step_leaf" without `steps`, or for `steps` without it; for a
        range of rates that are not learned, or that is empty.
    """
    if learn not in _LEARN:
        raise ValueError(f"sgd: learn={learn!r}; expected one of {', '.join(map(repr, _LEARN))}")
    if learn == "step_leaf" and (steps is None or steps < 1):
        raise ValueError(f"sgd: steps={steps}; learn='step_leaf' needs the number of inner steps, at least 1")
    if learn != "step_leaf" and steps is not None:
        raise ValueError(f"sgd: steps={steps} is an option of learn='step_leaf' only; leave it out")
    value: Any = rate
    drawn = isinstance(value, tuple | list)
    if drawn and (learn is None or len(value) != 2 or not value[0] <= value[1]):
        raise ValueError(
            f"sgd: rate={rate!r}, learn={learn!r}; expected one number or, of learned rates, (low, high)"
        )
    shape_of = {
        "leaf": lambda leaf: (),
        "element": lambda leaf: leaf.shape,
        "step_leaf": lambda leaf: (steps,),
    }

    def initial(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jax.random.uniform(key, shape, dtype, *value) if drawn else jnp.full(shape, value, dtype)

    def init(key: Key, params: PyTree) -> PyTree:
        if learn is None:
            return ()
        if learn == "scalar":
            return initial(key, (), jnp.result_type(*jax.tree.leaves(params)))
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        rates = [initial(k, shape_of[learn](leaf), leaf.dtype) for k, leaf in zip(keys, leaves)]
        return jax.tree.unflatten(structure, rates)

    def start(hyper: PyTree, params: PyTree, key: Key | None) -> PyTree:
        return ()

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        if learn is None:
            return jax.tree.map(lambda g: -value * g, grads), carry
        if learn == "scalar":
            return jax.tree.map(lambda g: -hyper.astype(g.dtype) * g, grads), carry
        rates = hyper
        if learn == "step_leaf":
            rates = jax.tree.map(lambda r: r[jnp.minimum(step, r.shape[0] - 1)], hyper)
        return jax.tree.map(lambda r, g: -r * g, rates, grads), carry

    return Rule(init, start, update)
