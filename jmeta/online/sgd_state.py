"""The state shared by continual learners that descend on a network's parameters, and its building blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta.types import Array, Batch, BatchLoss, Key, Model, PyTree

ParamsLoss = Callable[[PyTree, Batch], Array]  # (params, batch) -> scalar


class OnlineState(NamedTuple):
    """`params` of the network, whatever is `learned` beside them (learning rates, masks; () if nothing is),
    and the `memory` of examples (() if there is none)."""

    params: PyTree
    learned: PyTree
    memory: PyTree


def init_params(model: Model, key: Key, x: PyTree) -> PyTree:
    """Initialize the parameters for example inputs [example, ...], or a Batch of them.

    Raises ValueError for a model with state, since it is not defined which batches the running statistics of
    a continual learner would cover.
    """
    params, model_state = model.init(key, example_batch(x).x)
    if jax.tree.leaves(model_state):
        raise ValueError(
            "continual learners take models without state, and this one keeps running statistics; leave its "
            "normalization out or choose one without (such as layer norm)"
        )
    return params


def example_batch(x: PyTree) -> Batch:
    """Make a batch of example inputs [example, ...], to give a memory its shapes.

    The labels are integers; give a Batch, which is returned as it is, for targets of another kind.
    """
    if isinstance(x, Batch):
        return x
    return Batch(x, jnp.zeros(jax.tree.leaves(x)[0].shape[:1], jnp.int32))


def batch_size(batch: Batch) -> int:
    """Count the examples of a batch, padding included."""
    return jax.tree.leaves(batch.x)[0].shape[0]


def params_loss(model: Model, loss: BatchLoss) -> ParamsLoss:
    """Turn `loss(outputs, batch)` into a function of parameters and batch."""
    return lambda params, batch: loss(model.apply(params, {}, batch.x, train=True)[0], batch)


def predictor(model: Model) -> Callable[[OnlineState, PyTree], PyTree]:
    """Make the `predict` function of a learner that predicts with its parameters."""
    return lambda state, x: model.apply(state.params, {}, x, train=False)[0]


def without_memory(state: OnlineState) -> OnlineState:
    """Drop the memory, which prediction does not need, so that many states can be stored."""
    return state._replace(memory=())


def descend(params: PyTree, rate: PyTree | Array | float, grads: PyTree) -> PyTree:
    """Return params - rate * grads, with one rate for all parameters or a tree of rates."""
    if isinstance(rate, float | int | jax.Array):
        return jax.tree.map(lambda p, g: p - jnp.asarray(rate, p.dtype) * g, params, grads)
    return jax.tree.map(lambda p, r, g: p - r * g, params, rate, grads)


def clip_by_norm(tree: PyTree, limit: float | None) -> PyTree:
    """Scale `tree` down to the global norm `limit` if it is longer; None is no limit."""
    if limit is None or not jax.tree.leaves(tree):
        return tree
    scale = jnp.minimum(1.0, limit / jnp.maximum(optax.tree.norm(tree), 1e-12))
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), tree)


def single_examples(batch: Batch) -> Batch:
    """Split a batch into batches of one example each, to loop over: leaves [example, 1, ...]."""
    return jax.tree.map(lambda leaf: leaf[:, None], batch)


def concatenate_batches(first: Batch, second: Batch) -> Batch:
    """Concatenate two batches; if one of them has a mask, a missing mask counts as ones."""

    def mask(batch: Batch) -> Array:
        if batch.mask is not None:
            return batch.mask
        return jnp.ones(batch_size(batch), jnp.float32)

    x, y = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), (first.x, first.y), (second.x, second.y))
    if first.mask is None and second.mask is None:
        return Batch(x, y)
    return Batch(x, y, jnp.concatenate([mask(first), mask(second)]))


def require_positive(who: str, **settings: Any) -> None:
    """Raise ValueError for a number that is not positive; traced numbers are not checked."""
    for name, value in settings.items():
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{who}: {name}={value}; expected a positive number")
