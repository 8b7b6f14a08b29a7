"""One task from its support set to its query outputs."""

from __future__ import annotations

import functools

import jax

from jmeta.types import Adapter, Array, Batch, Key, LearnerState, Metrics, PyTree, Stream


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
    """Adapt to `support` and predict for `x` [example, ...] with padding `mask` [example].

    An adapter is handed noise keys in training, and at evaluation only if it `draws_at_test`.

    Returns the outputs [example, ...], the new model state and the adapter's info.
    """
    keys = jax.random.split(key, 4) if train or adapter.draws_at_test else (None,) * 4
    z, state = adapter.encode(meta, state, support.x, train=train, key=keys[0], mask=support.mask)
    fast, state, info = adapter.adapt(meta, state, support._replace(x=z), keys[1], train=train)
    z, state = adapter.encode(meta, state, x, train=train, key=keys[2], mask=mask)
    outputs, state = adapter.predict(meta, fast, state, z, keys[3], train=train, mask=mask)
    return outputs, state, info


@functools.partial(jax.jit, static_argnums=0)
def predict(adapter: Adapter, state: LearnerState, support: Batch | Stream, x: PyTree) -> PyTree:
    """Adapt a trained adapter (`jmeta.load`) to one's own `support` and predict for `x` [example, ...].

    As at test, without noise. The outputs of a classifier are logits [example, way], whose ways are the
    labels of `support`. Raises TypeError for a `Memory`, which `jmeta.unroll` runs.
    """
    if not isinstance(adapter, Adapter):
        raise TypeError(
            f"predict: got a {type(adapter).__name__}; expected an Adapter (jmeta.unroll runs a Memory over "
            "a stream, jmeta.from_memory makes an adapter of it)"
        )
    key = jax.random.fold_in(state.key, state.step)
    outputs, _, _ = adapt_and_predict(adapter, state.meta, state.model_state, support, x, key, train=False)
    return outputs
