"""Online streams: examples one at a time, whose labels arrive later; mixed, or one class after another."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.data.episodes import distinct
from jmeta.data.source import Sampler
from jmeta.types import Array, Key, Stream, Task


def online_few_shot(episodes: Sampler, *, delay: int = 1) -> Sampler:
    """Make the sampler of online streams from one of episodes: `sampler(key) -> Stream`.

    Support and query sets are shown together, in uniformly random order: (shot + query) examples of each way
    (Babu et al. 2021, section 4.1; Santoro et al. 2016). `y` [time] are the labels; `feedback` [time] is the
    label of `delay` steps before, -1 in the first `delay` steps. Padding of episodes of varying size stands
    at the end. Raises ValueError for a delay below 1.
    """
    if delay < 1:
        raise ValueError(
            f"online_few_shot: delay={delay}; expected at least 1, or the answer would come with the question"
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
        if both.mask is not None:
            order = order[jnp.argsort(both.mask[order] == 0, stable=True)]
        x, y, mask = jax.tree.map(lambda a: a[order], both)
        shown = y if mask is None else jnp.where(mask > 0, y, -1)
        return Stream(x, y, delayed(shown, self.delay), mask)


def continual_few_shot(episodes: Sampler, *, subtasks: int, slots: int) -> Sampler:
    """Make the sampler of continual few-shot tasks from one of `subtasks`-way episodes of fixed size.

    `sampler(key) -> Task(support=Stream, query=Batch)`: each class of the episode is a subtask; the stream
    shows the shots of one after those of the other (Babu et al. 2021, section 4.3), the query set has all
    classes, grouped by subtask in the same order. A task gives each of its classes one of `slots` labels, at
    random. `feedback` [time] is the label of the step before; `task` [time] the index of the subtask.

    Raises ValueError for fewer slots than subtasks; when called, for episodes with padding or another way.
    """
    if not 1 <= subtasks <= slots:
        raise ValueError(
            f"continual_few_shot: subtasks={subtasks}, slots={slots}; expected a slot for each subtask"
        )
    return jax.tree_util.Partial(_DrawContinual(subtasks, slots), episodes)


class _DrawContinual(NamedTuple):
    """The static part of the sampler."""

    subtasks: int
    slots: int

    def __call__(self, episodes: Any, key: Key) -> Task:
        key_task, key_labels = jax.random.split(key)
        support, query = episodes(key_task)
        if support.mask is not None or support.y.shape[0] % self.subtasks:
            raise ValueError(
                f"continual_few_shot: episodes of {support.y.shape[0]} support examples"
                f"{'' if support.mask is None else ', some of them padding'}; expected fixed episodes of way "
                f"{self.subtasks}, one for each subtask"
            )
        labels = distinct(key_labels, jnp.asarray(self.slots, jnp.int32), self.subtasks)
        y = labels[support.y]
        return Task(Stream(support.x, y, delayed(y, 1), task=support.y), query._replace(y=labels[query.y]))


def delayed(labels: Array, delay: int) -> Array:
    """Labels [time] as they arrive `delay` steps later: [time], -1 where nothing has arrived."""
    nothing = jnp.full(min(delay, labels.shape[0]), -1, labels.dtype)
    return jnp.concatenate([nothing, labels[: labels.shape[0] - len(nothing)]])
