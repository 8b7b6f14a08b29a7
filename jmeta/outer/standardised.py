"""Standardise the images in front of a learner, so that whoever loads it gives images in 0..1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax

from jmeta.data.transforms import normalise
from jmeta.types import Adapter, Array, Key, Memory, PyTree

Adapting = TypeVar("Adapting", Adapter, Memory)


def standardised(learner: Adapting, mean: float | Sequence[float], std: float | Sequence[float]) -> Adapting:
    """`learner`, but that it sees (x - mean) / std of its inputs.

    Args:
      learner: an adapter or a memory of images [example, height, width, channel].
      mean, std: one number each, or one a channel.

    Returns:
      An adapter, or memory, for images that are not standardised.
    """
    scale = normalise(mean, std)

    def scaled(x: Array) -> Array:
        return scale(jax.random.key(0), x)  # which draws nothing

    def init(key: Key, x: Array) -> tuple[PyTree, PyTree]:
        return learner.init(key, scaled(x))

    if isinstance(learner, Memory):
        memory = learner

        def prepare(params: PyTree, state: PyTree, x: Array, feedback: Array, **how: Any) -> Any:
            return memory.prepare(params, state, scaled(x), feedback, **how)

        return memory._replace(init=init, prepare=prepare)

    adapter = learner

    def encode(meta: PyTree, state: PyTree, x: Array, **how: Any) -> tuple[PyTree, PyTree]:
        return adapter.encode(meta, state, scaled(x), **how)

    return adapter._replace(init=init, encode=encode)
