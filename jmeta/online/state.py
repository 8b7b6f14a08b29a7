"""What every continual learner's state looks like, and the losses it descends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta.types import Array, Batch, Key, Model, PyTree

Loss = Callable[[PyTree, Batch], Array]


class OnlineState(NamedTuple):
    """`params` of the network, what is `learned` beside them (learning rates, masks; () for nothing) and the
    `memory` of examples (() for none)."""

    params: PyTree
    learned: PyTree
    memory: PyTree


def init_params(model: Model, key: Key, x: PyTree) -> PyTree:
    """Initial parameters for example inputs [example, ...].

    Raises ValueError for a model with state: which batch a continual learner's running statistics would be of
    is not defined.
    """
    params, model_state = model.init(key, x)
    if jax.tree.leaves(model_state):
        raise ValueError(
            "continual learners take models without state, and this one keeps running statistics; leave its "
            "normalisation out or choose one without (such as layer norm)"
        )
    return params


def example_batch(x: PyTree) -> Batch:
    """Example inputs [example, ...] as a batch, to give a memory its shapes."""
    return Batch(x, jnp.zeros(jax.tree.leaves(x)[0].shape[:1], jnp.int32))


def loss_of(model: Model, loss: Callable[[PyTree, Batch], Array]) -> Loss:
    """`loss(outputs, batch)` as a function of parameters and batch."""
    return lambda params, batch: loss(model.apply(params, {}, batch.x, train=True)[0], batch)


def predictor(model: Model) -> Callable[[OnlineState, PyTree], PyTree]:
    """The `predict` of learners that predict with their parameters."""
    return lambda state, x: model.apply(state.params, {}, x, train=False)[0]


def without_memory(state: OnlineState) -> OnlineState:
    """What prediction needs of a state, to keep many of them."""
    return state._replace(memory=())


def descend(params: PyTree, rate: PyTree | Array | float, grads: PyTree) -> PyTree:
    """params - rate * grads, with one rate for all or a tree of rates."""
    if isinstance(rate, float | int | jax.Array):
        return jax.tree.map(lambda p, g: p - jnp.asarray(rate, p.dtype) * g, params, grads)
    return jax.tree.map(lambda p, r, g: p - r * g, params, rate, grads)


def clip_norm(tree: PyTree, limit: float | None) -> PyTree:
    """`tree` scaled down to the global norm `limit` where it is longer; None is no limit."""
    if limit is None or not jax.tree.leaves(tree):
        return tree
    scale = jnp.minimum(1.0, limit / jnp.maximum(optax.tree.norm(tree), 1e-12))
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), tree)


def examples_of(batch: Batch) -> Batch:
    """A batch as batches of one example each, to loop over: leaves [example, 1, ...]."""
    return jax.tree.map(lambda leaf: leaf[:, None], batch)


def joined(first: Batch, second: Batch) -> Batch:
    """Two batches as one; a missing mask counts as ones where the other has a mask."""

    def mask(batch: Batch) -> Array:
        if batch.mask is not None:
            return batch.mask
        return jnp.ones(batch.y.shape[:1], jnp.float32)

    x, y = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), (first.x, first.y), (second.x, second.y))
    if first.mask is None and second.mask is None:
        return Batch(x, y)
    return Batch(x, y, jnp.concatenate([mask(first), mask(second)]))


def require(who: str, **settings: Any) -> None:
    """Raise ValueError for a number that is not positive; numbers that are traced are not looked at."""
    for name, value in settings.items():
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{who}: {name}={value}; expected a positive number")
