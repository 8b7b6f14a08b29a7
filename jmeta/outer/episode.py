"""One task from its support set to its query outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.outer.check import abstract_outputs, check_labels, first_line
from jmeta.parts import describe
from jmeta.types import Adapter, Array, Batch, Key, LearnerState, Memory, Metrics, PyTree, Stream


def run_task(
    adapter: Adapter,
    meta: PyTree,
    state: PyTree,
    support: Batch | Stream,
    x: PyTree,
    key: Key,
    *,
    train: bool,
    mask: Array | None = None,
) -> tuple[PyTree, PyTree, Metrics, PyTree]:
    """Adapt to `support` and predict for `x` [example, ...] with padding `mask` [example].

    An adapter is handed noise keys in training, and at evaluation only if it `draws_at_test`.

    Returns the outputs [example, ...], the new model state, the adapter's info and its fast weights.
    """
    keys = _keys(adapter, key, train)
    fast, state, info = _adapt(adapter, meta, state, support, keys, train)
    z, state = adapter.encode(meta, state, x, train=train, key=keys[2], mask=mask)
    outputs, state = adapter.predict(meta, fast, state, z, keys[3], train=train, mask=mask)
    return outputs, state, info, fast


def adapt_and_predict(
    adapter: Adapter,
    meta: PyTree,
    state: PyTree,
    support: Batch | Stream,
    x: PyTree,
    key: Key,
    *,
    train: bool,
    mask: Array | None = None,
) -> tuple[PyTree, PyTree, Metrics]:
    """Return all of `run_task` but the fast weights."""
    return run_task(adapter, meta, state, support, x, key, train=train, mask=mask)[:3]


def adapt(
    adapter: Adapter,
    state: LearnerState,
    support: Batch | Stream,
    *,
    key: Key | None = None,
    norm: str | None = None,
) -> PyTree:
    """Adapt a trained adapter (`jmeta.load`) to one's own `support`, as at test.

    Args:
      adapter: the algorithm.
      state: what was learned.
      support: the support set; inputs as in training (images in 0..1), labels in 0..way-1. Ways without an
        example are masked in the outputs.
      key: for adapters that draw at test; by default one that depends on `state` alone.
      norm: a policy of batch normalization in place of the run's (`jmeta.models.norm_policy`): "batch" or
        "support".

    Returns:
      The fast weights, for `jmeta.predict`.

    Raises:
      TypeError: for what is no adapter or no learner's state. `jmeta.unroll` runs a `Memory`.
      ValueError: for labels beyond the outputs, inputs that do not fit, or a policy that the run has not.
    """
    adapter = _ready("adapt", adapter, state, norm)
    support = _checked("adapt", adapter, state, support)
    fast = _run("adapt", support, _adapted, adapter, state, support, key)
    if isinstance(fast, Batch | Stream):
        raise ValueError(
            f"adapt: the fast weights of this adapter are a {type(fast).__name__}, which predict would take "
            "for a support set; give the support set to predict"
        )
    return fast


def predict(
    adapter: Adapter,
    state: LearnerState,
    support_or_fast: Batch | Stream | PyTree,
    x: PyTree,
    *,
    key: Key | None = None,
    norm: str | None = None,
) -> PyTree:
    """Predict for one's own `x` [example, ...] by a trained adapter (`jmeta.load`), as at test.

    Under norm="batch" batch normalization takes its statistics from `x` itself: the outputs for an image
    depend on the images that come with it, and for one image alone they are poor. Give all of them at once,
    or norm="support", which normalizes them with the support set's statistics.

    Args:
      adapter, state: the algorithm, and what was learned.
      support_or_fast: a support set to adapt to, or the result of `jmeta.adapt` with the same `norm`.
      x: the inputs, shaped and scaled like those of the support set.
      key, norm: as for `jmeta.adapt`.

    Returns:
      The outputs; of a classifier logits [example, way], whose ways are the labels of the support set.

    Raises as `jmeta.adapt` does.
    """
    adapter = _ready("predict", adapter, state, norm)
    if not isinstance(support_or_fast, Batch | Stream):
        return _run("predict", x, _predicted, adapter, state, support_or_fast, x, key)
    examples = [jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], tree) for tree in (x, support_or_fast.x)]
    if examples[0] != examples[1]:
        raise ValueError(
            f"predict: an example of x is {examples[0]}, one of the support set {examples[1]}; expected x "
            "[example, ...] with examples like those of the support set"
        )
    support = _checked("predict", adapter, state, support_or_fast)
    return _run("predict", support, _adapted_and_predicted, adapter, state, support, x, key)


@functools.lru_cache(64)
def outputs_of_task(adapter: Adapter, train: bool) -> Callable[..., PyTree]:
    """Make the function from `(meta, model_state, task)` to the outputs [example, ...] for its query set."""

    def outputs_of(meta: PyTree, state: PyTree, task: Any) -> PyTree:
        support, query = task
        key = jax.random.key(0)
        return run_task(adapter, meta, state, support, query.x, key, train=train, mask=query.mask)[0]

    return outputs_of


def _keys(adapter: Adapter, key: Key, train: bool) -> Any:
    return jax.random.split(key, 4) if train or adapter.draws_at_test else (None,) * 4


def _adapt(
    adapter: Adapter, meta: PyTree, state: PyTree, support: Batch | Stream, keys: Any, train: bool
) -> tuple[PyTree, PyTree, Metrics]:
    z, state = adapter.encode(meta, state, support.x, train=train, key=keys[0], mask=support.mask)
    return adapter.adapt(meta, state, support._replace(x=z), keys[1], train=train)


def _key_or_default(state: LearnerState, key: Key | None) -> Key:
    return jax.random.fold_in(state.key, state.step) if key is None else key


@functools.partial(jax.jit, static_argnums=0)
def _adapted_and_predicted(
    adapter: Adapter, state: LearnerState, support: Batch | Stream, x: PyTree, key: Key | None
) -> PyTree:
    key = _key_or_default(state, key)
    return run_task(adapter, state.meta, state.model_state, support, x, key, train=False)[0]


@functools.partial(jax.jit, static_argnums=0)
def _adapted(adapter: Adapter, state: LearnerState, support: Batch | Stream, key: Key | None) -> PyTree:
    keys = _keys(adapter, _key_or_default(state, key), train=False)
    return _adapt(adapter, state.meta, state.model_state, support, keys, train=False)[0]


@functools.partial(jax.jit, static_argnums=0)
def _predicted(adapter: Adapter, state: LearnerState, fast: PyTree, x: PyTree, key: Key | None) -> PyTree:
    keys = _keys(adapter, _key_or_default(state, key), train=False)
    z, model_state = adapter.encode(state.meta, state.model_state, x, train=False, key=keys[2], mask=None)
    return adapter.predict(state.meta, fast, model_state, z, keys[3], train=False, mask=None)[0]


def _ready(who: str, adapter: Adapter, state: LearnerState, norm: str | None) -> Adapter:
    """Check what is to adapt, and apply its policy of batch normalization."""
    if not isinstance(adapter, Adapter):
        advice = (
            " (jmeta.unroll runs a Memory over a stream, jmeta.from_memory makes an adapter of it)"
            if isinstance(adapter, Memory)
            else ""
        )
        raise TypeError(f"{who}: got {describe(adapter)}; expected an Adapter{advice}")
    if not isinstance(state, LearnerState):
        raise TypeError(
            f"{who}: the state is {describe(state)}; expected a LearnerState, as jmeta.load returns"
        )
    if jnp.ndim(state.key):
        raise ValueError(
            f"{who}: the state of {jnp.shape(state.key)[0]} seeds side by side; expected that of one, as "
            "jmeta.load(workdir, seed=0) returns"
        )
    if norm is None:
        return adapter
    if adapter.with_norm is None:
        raise ValueError(f"{who}: norm={norm!r}, but this adapter has no policy of batch normalization")
    return adapter.with_norm(norm)


def _checked(who: str, adapter: Adapter, state: LearnerState, support: Batch | Stream) -> Batch | Stream:
    """Check the labels of a support set, and mask the ways without an example, if the labels are concrete.

    Adapters mask absent ways of padded episodes, which have a mask: here, one of ones.
    """

    def outputs() -> PyTree:
        arguments = state.meta, state.model_state, (support, Batch(support.x, None))
        return _run(who, support, abstract_outputs, outputs_of_task(adapter, False), *arguments)

    check_labels(who, support, outputs)
    y = support.y
    labeled = isinstance(y, np.ndarray | jax.Array) and not isinstance(y, jax.core.Tracer) and y.ndim == 1
    if not labeled or support.mask is not None or not jnp.issubdtype(y.dtype, jnp.integer):
        return support
    shape: tuple[int, ...] = getattr(outputs(), "shape", ())
    absent = isinstance(support, Batch) and len(shape) == 2 and len(np.unique(y)) < shape[1]
    return support._replace(mask=jnp.ones(len(y), jnp.float32)) if absent else support


def _run(who: str, inputs: PyTree, function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """Call `function`; if it fails, raise ValueError in one sentence with the shapes of the `inputs`."""
    try:
        return function(*arguments)
    except Exception as error:
        leaves = jax.tree.leaves(inputs.x if isinstance(inputs, Batch | Stream) else inputs)
        shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
        raise ValueError(
            f"{who}: the adapter cannot run inputs of {shapes}; expected [example, ...] as in training: "
            f"{first_line(error)}"
        ) from error
