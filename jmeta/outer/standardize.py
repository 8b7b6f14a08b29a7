"""Images are standardized inside an adapter, so that users of a trained one pass images in 0..1."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax

from jmeta.data.transforms import normalize
from jmeta.types import Adapter, Array, Key, Memory, PyTree

Adapting = TypeVar("Adapting", Adapter, Memory)


def standardize_inputs(
    adapter: Adapting, mean: float | Sequence[float], std: float | Sequence[float]
) -> Adapting:
    """Wrap `adapter` so that it receives (x - mean) / std of its inputs.

    Args:
      adapter: an adapter or a memory of images [example, height, width, channel].
      mean, std: one number each, or one per channel.

    Returns:
      An adapter, or memory, for images that are not standardized.
    """
    normalizer = normalize(mean, std)

    def scale(x: Array) -> Array:
        return normalizer(jax.random.key(0), x)  # which draws nothing

    def init(key: Key, x: Array) -> tuple[PyTree, PyTree]:
        return adapter.init(key, scale(x))

    if isinstance(adapter, Memory):
        memory = adapter

        def prepare(params: PyTree, state: PyTree, x: Array, feedback: Array, **options: Any) -> Any:
            return memory.prepare(params, state, scale(x), feedback, **options)

        return memory._replace(init=init, prepare=prepare)

    inner = adapter

    def encode(meta: PyTree, state: PyTree, x: Array, **options: Any) -> tuple[PyTree, PyTree]:
        return inner.encode(meta, state, scale(x), **options)

    def with_norm(norm: str) -> Adapter:
        assert inner.with_norm is not None
        return standardize_inputs(inner.with_norm(norm), mean, std)

    other = None if inner.with_norm is None else functools.cache(with_norm)
    return inner._replace(init=init, encode=encode, with_norm=other)
