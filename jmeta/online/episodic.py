"""Adapters on a stream of batches: every batch is first the query of what was learned before, then support.

A learner here holds an adapter's meta-parameters, the slow weights, and what they were adapted to last, the
fast weights. The slow part is a `LearnerState`, so that a learner can go on from where an episodic outer loop
(`jmeta.learner`) has taken it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta.metrics import accuracy
from jmeta.online.state import example_batch
from jmeta.types import Adapter, Array, Batch, Key, LearnerState, Metrics, PyTree

BatchLoss = Callable[[PyTree, Batch], Array]


class EpisodicState(NamedTuple):
    """`slow`: meta-parameters and outer optimiser; `fast`: what the adapter made of them, () where that is
    made anew at each step; `memory`: past batches, () for none."""

    slow: LearnerState
    fast: PyTree
    memory: PyTree


class Previous(NamedTuple):
    """The last `batch`, and whether there has been one, `seen` []."""

    batch: Batch
    seen: Array


def begin(adapter: Adapter, tx: optax.GradientTransformation | None, key: Key, x: PyTree) -> LearnerState:
    """Fresh slow weights for example inputs [example, ...]; without an optimiser where `tx` is None."""
    key_init, key_run = jax.random.split(key)
    meta, model_state = adapter.init(key_init, x)
    opt = () if tx is None else tx.init(meta)
    return LearnerState(jnp.zeros((), jnp.int32), meta, model_state, opt, key_run)


def nothing_before(x: PyTree) -> Previous:
    """No previous batch, in the shape of example inputs [example, ...]."""
    blank = jax.tree.map(jnp.zeros_like, example_batch(x))
    return Previous(blank, jnp.zeros((), bool))


def adapt(adapter: Adapter, slow: LearnerState, meta: PyTree, batch: Batch) -> PyTree:
    """What `meta` becomes on a batch: the adapter's fast weights, as in training and without noise."""
    z, state = adapter.encode(meta, slow.model_state, batch.x, train=True, key=None, mask=batch.mask)
    return adapter.adapt(meta, state, batch._replace(x=z), None, train=True)[0]


def outputs_of(adapter: Adapter, slow: LearnerState, meta: PyTree, fast: PyTree, x: PyTree) -> PyTree:
    """What the adapted network says to inputs [example, ...]."""
    z, state = adapter.encode(meta, slow.model_state, x, train=True, key=None, mask=None)
    return adapter.predict(meta, fast, state, z, None, train=True, mask=None)[0]


def episode(
    adapter: Adapter, loss: BatchLoss, slow: LearnerState, meta: PyTree, support: Batch, query: Batch
) -> tuple[Array, PyTree]:
    """The loss on one batch after adapting to another, and the outputs: (scalar, [example, ...])."""
    outputs = outputs_of(adapter, slow, meta, adapt(adapter, slow, meta, support), query.x)
    return loss(outputs, query), outputs


def score(loss: BatchLoss, outputs: PyTree, batch: Batch) -> Metrics:
    """Loss [] and accuracy [] of a prediction that has not seen the batch's labels."""
    return {"loss": loss(outputs, batch), **accuracy(outputs, batch)}


def descend(tx: optax.GradientTransformation, slow: LearnerState, grads: PyTree) -> LearnerState:
    """The slow weights after one step of the outer optimiser."""
    updates, opt = tx.update(grads, slow.opt, slow.meta)
    return slow._replace(step=slow.step + 1, meta=optax.apply_updates(slow.meta, updates), opt=opt)


def choose(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """One of two trees by a condition []."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def blank(make: Callable[[], PyTree]) -> PyTree:
    """Zeros in the shapes of what `make` would return."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(make))
