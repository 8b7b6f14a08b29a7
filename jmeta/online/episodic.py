"""Adapters on a stream of batches: every batch is first the query of the last adaptation, then a support set.

A learner here holds an adapter's meta-parameters, the slow weights, and the result of their last adaptation,
the fast weights. The slow part is a `LearnerState`, so that a learner can continue from the state that an
episodic outer loop (`jmeta.learner`) has reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta.losses import is_labels
from jmeta.metrics import accuracy
from jmeta.online.sgd_state import example_batch
from jmeta.types import Adapter, Array, Batch, BatchLoss, Key, LearnerState, Metrics, PyTree


class EpisodicState(NamedTuple):
    """`slow`: meta-parameters and outer optimizer; `fast`: the adapted weights, () if they are computed anew
    at each step; `memory`: past batches, () if there are none."""

    slow: LearnerState
    fast: PyTree
    memory: PyTree


class Previous(NamedTuple):
    """The last `batch`; `seen` [] is false before there has been one."""

    batch: Batch
    seen: Array


def init_slow(adapter: Adapter, tx: optax.GradientTransformation | None, key: Key, x: PyTree) -> LearnerState:
    """Initialize the slow weights for example inputs [example, ...]; `tx` None has no optimizer state."""
    key_init, key_run = jax.random.split(key)
    meta, model_state = adapter.init(key_init, example_batch(x).x)
    opt = () if tx is None else tx.init(meta)
    return LearnerState(jnp.zeros((), jnp.int32), meta, model_state, opt, key_run)


def no_previous(x: PyTree) -> Previous:
    """Make an empty `Previous` for example inputs [example, ...]."""
    blank = jax.tree.map(jnp.zeros_like, example_batch(x))
    return Previous(blank, jnp.zeros((), bool))


def adapt_to_batch(adapter: Adapter, meta: PyTree, model_state: PyTree, batch: Batch) -> PyTree:
    """Adapt `meta` to a batch, as in training but without noise; returns the adapter's fast weights."""
    z, state = adapter.encode(meta, model_state, batch.x, train=True, key=None, mask=batch.mask)
    return adapter.adapt(meta, state, batch._replace(x=z), None, train=True)[0]


def outputs_of(adapter: Adapter, meta: PyTree, fast: PyTree, model_state: PyTree, x: PyTree) -> PyTree:
    """Compute the outputs of the adapted network for inputs [example, ...]."""
    z, state = adapter.encode(meta, model_state, x, train=True, key=None, mask=None)
    return adapter.predict(meta, fast, state, z, None, train=True, mask=None)[0]


def episode_loss(
    adapter: Adapter, loss: BatchLoss, meta: PyTree, model_state: PyTree, support: Batch, query: Batch
) -> tuple[Array, PyTree]:
    """Adapt to one batch and return the loss on another, and the outputs: (scalar, [example, ...])."""
    fast = adapt_to_batch(adapter, meta, model_state, support)
    outputs = outputs_of(adapter, meta, fast, model_state, query.x)
    return loss(outputs, query), outputs


def score(loss: BatchLoss, outputs: PyTree, batch: Batch) -> Metrics:
    """Compute loss [] and, of a classifier, accuracy [] of a prediction that has not seen the labels."""
    classified = is_labels(batch.y, 1) and getattr(outputs, "ndim", None) == 2
    return {"loss": loss(outputs, batch), **(accuracy(outputs, batch) if classified else {})}


def update_slow(tx: optax.GradientTransformation, slow: LearnerState, grads: PyTree) -> LearnerState:
    """Take one step of the outer optimizer."""
    updates, opt = tx.update(grads, slow.opt, slow.meta)
    return slow._replace(step=slow.step + 1, meta=optax.apply_updates(slow.meta, updates), opt=opt)


def tree_where(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """Select one of two trees by a condition []."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def zeros_like_result(function: Callable[[], PyTree]) -> PyTree:
    """Make zeros of the shapes that `function` would return."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function))
