"""Online few-shot streams: examples of all classes mixed, one at a time, whose labels arrive later."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.data.source import Sampler
from jmeta.types import Array, Key, Stream, Task


def online_few_shot(episodes: Sampler, *, delay: int = 1) -> Sampler:
    """Make the sampler of online streams from one of episodes: `sampler(key) -> Stream`.

    The support and query sets are mixed in uniformly random order: (shot + query) examples of each class
    (Babu et al. 2021, section 4.1; Santoro et al. 2016). `y` [time] are the labels; `feedback` [time] is the
    label of `delay` steps before, -1 in the first `delay` steps. Padding of episodes of varying size comes
    last. Raises ValueError for a delay below 1; when called, for a delay that is not shorter than the stream.
    """
    if delay < 1:
        raise ValueError(
            f"online_few_shot: delay={delay}; expected at least 1, or the answer would come with the question"
        )
    return jax.tree_util.Partial(_DelayedDraw(delay), episodes)


class _DelayedDraw(NamedTuple):
    """The static part of the sampler."""

    delay: int

    def __call__(self, episodes: Any, key: Key) -> Stream:
        key_task, key_order = jax.random.split(key)
        task: Task = episodes(key_task)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), task.support, task.query)
        time = both.y.shape[0]
        if self.delay >= time:
            raise ValueError(
                f"online_few_shot: delay={self.delay} for a stream of {time} steps; no label would arrive"
            )
        order = jax.random.permutation(key_order, time)
        if both.mask is not None:
            order = order[jnp.argsort(both.mask[order] == 0, stable=True)]
        x, y, mask = jax.tree.map(lambda a: a[order], both)
        labels = y if mask is None else jnp.where(mask > 0, y, -1)
        return Stream(x, y, delayed(labels, self.delay), mask)


def delayed(labels: Array, delay: int) -> Array:
    """Shift labels [time] to the steps at which they arrive: [time], -1 before the first has arrived."""
    nothing = jnp.full(min(delay, labels.shape[0]), -1, labels.dtype)
    return jnp.concatenate([nothing, labels[: labels.shape[0] - len(nothing)]])
