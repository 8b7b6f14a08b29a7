"""Online few-shot streams: examples one at a time, whose labels arrive later."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.data.source import Sampler
from jmeta.types import Array, Key, Stream, Task


def online(episodes: Sampler, *, delay: int = 1) -> Sampler:
    """Make the sampler of online streams from one of episodes: `sampler(key) -> Stream`.

    Support and query sets are shown together, in uniformly random order: (shot + query) examples of each way
    (Babu et al. 2021, section 4.1; Santoro et al. 2016). `y` [time] are the labels; `feedback` [time] is the
    label of `delay` steps before, -1 in the first `delay` steps. Raises ValueError for a delay below 1.
    """
    if delay < 1:
        raise ValueError(
            f"online: delay={delay}; expected at least 1, or the answer would come with the question"
        )
    return jax.tree_util.Partial(_Draw(delay), episodes)


class _Draw(NamedTuple):
    """The static part of the sampler."""

    delay: int

    def __call__(self, episodes: Any, key: Key) -> Stream:
        key_task, key_order = jax.random.split(key)
        task: Task = episodes(key_task)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), task.support, task.query)
        order = jax.random.permutation(key_order, both.y.shape[0])
        x, y, mask = jax.tree.map(lambda a: a[order], both)
        return Stream(x, y, delayed(y, self.delay), mask)


def delayed(labels: Array, delay: int) -> Array:
    """Labels [time] as they arrive `delay` steps later: [time], -1 where nothing has arrived."""
    nothing = jnp.full(min(delay, labels.shape[0]), -1, labels.dtype)
    return jnp.concatenate([nothing, labels[: labels.shape[0] - len(nothing)]])
