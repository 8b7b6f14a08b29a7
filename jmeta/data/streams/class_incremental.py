"""Continual few-shot tasks: a stream of one class after another, then a query set of all of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.data.episodes import way_of
from jmeta.data.sampling import sample_distinct
from jmeta.data.source import Sampler
from jmeta.data.streams.delayed import delayed
from jmeta.types import Key, Stream, Task


def continual_few_shot(episodes: Sampler, *, subtasks: int, slots: int) -> Sampler:
    """Make the sampler of continual few-shot tasks from one of `subtasks`-way episodes of fixed size.

    `sampler(key) -> Task(support=Stream, query=Batch)`: each class of the episode is a subtask; the stream
    has all shots of one class before those of the next (Babu et al. 2021, section 4.3), and the query set has
    all classes, grouped by subtask in the same order. A task gives each of its classes one of `slots` labels,
    at random. `feedback` [time] is the label of the step before; `task` [time] the index of the subtask.

    Raises ValueError for fewer slots than subtasks and for episodes of another way; when called, for episodes
    with padding. If the way of one's own episodes differs, which is seen when they are drawn, labels are -1,
    for which no loss is finite.
    """
    if not 1 <= subtasks <= slots:
        raise ValueError(
            f"continual_few_shot: subtasks={subtasks}, slots={slots}; expected a slot for each subtask"
        )
    way = way_of(episodes)
    if way not in (None, subtasks):
        raise ValueError(
            f"continual_few_shot: subtasks={subtasks} of episodes of way {way}; expected a class for "
            "each subtask"
        )
    return jax.tree_util.Partial(_ClassIncrementalDraw(subtasks, slots), episodes)


class _ClassIncrementalDraw(NamedTuple):
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
        labels = sample_distinct(key_labels, jnp.asarray(self.slots, jnp.int32), self.subtasks)
        fits = support.y.max() == self.subtasks - 1
        y, query_y = (jnp.where(fits, labels[classes], -1) for classes in (support.y, query.y))
        return Task(Stream(support.x, y, delayed(y, 1), task=support.y), query._replace(y=query_y))
