"""OSAKA: a stream of small batches with unannounced switches of domain, classes and labels.

Caccia et al., Online Fast Adaptation and Knowledge Accumulation, NeurIPS 2020. Each step brings a batch of
`way` classes with `shot` images each. With probability 1 - `stay` the task switches: a domain is drawn, then
its classes in random order, which gives them their labels. The learner sees none of this.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.bounds import is_concrete, one_or_nan, require_within
from jmeta.data.class_dataset import ClassDataset
from jmeta.data.episodes import episodes_from
from jmeta.data.sampling import sample_distinct, uniform_below
from jmeta.data.source import Sampler
from jmeta.types import Array, Batch, Key

DRAWINGS = 10  # of a character in the support pool; the rest are the query pool


class Domains(NamedTuple):
    """The images of all domains, grouped by class, the classes of a domain one after another.

    `examples` [total, height, width, channel] uint8; `offsets` and `counts` [class] int32; `first` and
    `classes` [domain] int32: a domain's first class and its number of classes; `shares` [domain] float32: the
    probability of each domain.
    """

    examples: Array
    offsets: Array
    counts: Array
    first: Array
    classes: Array
    shares: Array


class Timeline(NamedTuple):
    """The switches of a stream: `task_start` [step] int32, the step at which each step's task starts; `key`
    draws the batches. A longer timeline of the same key starts with the shorter one."""

    key: Key
    task_start: Array


class StreamStep(NamedTuple):
    """One step: the `batch`, x [way * shot, ...] float32 in 0..1 grouped by label, and, hidden from the
    learner, its `domain` [] int32 and whether the task has just `switched` []."""

    batch: Batch
    domain: Array
    switched: Array


def invert_images(data: ClassDataset) -> ClassDataset:
    """Turn dark on light into light on dark and back; OSAKA inverts Omniglot beside MNIST."""
    return data._replace(examples=255 - np.asarray(data.examples))


def concatenate_classes(parts: Sequence[ClassDataset]) -> ClassDataset:
    """Join the classes of several parts, one part after another."""
    rows = np.cumsum([0, *(len(part.examples) for part in parts)])
    offsets = np.concatenate([np.asarray(part.offsets) + row for part, row in zip(parts, rows)])
    counts = np.concatenate([np.asarray(part.counts) for part in parts])
    examples = np.concatenate([np.asarray(part.examples) for part in parts])
    return ClassDataset(examples, offsets.astype(np.int32), counts.astype(np.int32))


def domains(sources: Sequence[ClassDataset], shares: Sequence[float]) -> Domains:
    """Put the domains on the device, every class of a domain cut to the size of its smallest.

    Raises ValueError if there are not as many shares as sources, or they do not add up to 1.
    """
    if len(shares) != len(sources) or not np.isclose(sum(shares), 1):
        raise ValueError(
            f"domains: shares {tuple(shares)} for {len(sources)} sources; expected one each, 1 in all"
        )
    cut = [source._replace(counts=np.full(len(source.counts), np.min(source.counts))) for source in sources]
    classes = np.asarray([len(source.counts) for source in sources], np.int32)
    first = (np.cumsum(classes) - classes).astype(np.int32)
    numbers = (first, classes, np.asarray(shares, np.float32))
    return Domains(*jax.device_put((*concatenate_classes(cut), *numbers)))


def timeline(key: Key, *, steps: int, stay: float) -> Timeline:
    """Draw the switches of a stream of `steps` batches: one before the first step, and one before every other
    with probability 1 - `stay`.

    Raises ValueError for a probability outside 0..1, or no step.
    """
    if not 0 <= stay <= 1 or steps < 1:
        raise ValueError(
            f"timeline: stay={stay}, steps={steps}; expected a probability and at least one step"
        )
    key_switch, key_batches = jax.random.split(key)
    step = jnp.arange(steps, dtype=jnp.int32)
    uniform = jax.vmap(lambda index: jax.random.uniform(jax.random.fold_in(key_switch, index)))(step)
    switched = (uniform >= stay) | (step == 0)
    return Timeline(key_batches, jax.lax.cummax(jnp.where(switched, step, 0)))


def require_classes(data: Domains, way: int) -> None:
    """Raise ValueError if a domain has fewer classes than `way`; traced numbers are not checked."""
    if not is_concrete(data.classes):
        return
    least = int(np.min(data.classes))
    if way > least:
        raise ValueError(f"way={way}; expected at most the {least} classes of the smallest domain")


def shown_at(data: Domains, line: Timeline, step: Array | int, *, way: int, shot: int) -> StreamStep:
    """Draw a step: the classes of its task, which depend on the task's start alone, and images of them drawn
    with replacement from the whole of each class.

    Raises ValueError for a `way` beyond the classes of the smallest domain, and for a step beyond the
    timeline. If the domains or the step are traced, images are NaN instead.
    """
    require_classes(data, way)
    steps = line.task_start.shape[0]
    require_within("shown_at", "step", step, 0, steps - 1, f"a timeline of {steps} steps")
    start = line.task_start[step]
    key_task, key_images = jax.random.split(line.key)
    key_domain, key_classes = jax.random.split(jax.random.fold_in(key_task, start))
    domain = jax.random.choice(key_domain, data.shares.shape[0], p=data.shares)
    chosen = data.first[domain] + sample_distinct(key_classes, data.classes[domain], way)
    sizes = jnp.broadcast_to(data.counts[chosen][:, None], (way, shot))
    rows = data.offsets[chosen][:, None] + uniform_below(jax.random.fold_in(key_images, step), sizes)
    # [way * shot, height, width, channel]
    x = data.examples.at[rows.reshape(-1)].get(mode="promise_in_bounds").astype(jnp.float32) / 255
    x = x * one_or_nan((way <= data.classes[domain]) & (step < steps))
    y = jnp.repeat(jnp.arange(way, dtype=jnp.int32), shot)
    return StreamStep(Batch(x, y), domain.astype(jnp.int32), start == step)


def pretraining_episodes(
    data: ClassDataset, classes: Sequence[int] | np.ndarray, *, way: int, shot: int, query: int
) -> Sampler:
    """Make the sampler of pre-training episodes of some classes of Omniglot: `sampler(key) -> Task`.

    The first ten drawings of a character are the pool of support images, the others of query images, and both
    are drawn with replacement, as in the released code. Raises ValueError if a class has no more than ten
    drawings, there are fewer classes than `way`, or a class is not among those of `data`.
    """
    require_within(
        "pretraining_episodes", "classes", classes, 0, len(data.counts) - 1, "the classes there are"
    )
    part = data._replace(offsets=np.asarray(data.offsets)[classes], counts=np.asarray(data.counts)[classes])
    if np.min(part.counts) <= DRAWINGS:
        raise ValueError(
            f"pretraining_episodes: a class has {np.min(part.counts)} drawings; expected more than {DRAWINGS}"
        )
    size = {"way": way, "shot": shot, "query": query}
    shape, fetch = part.examples.shape[1:], functools.partial(_fetch_from_pools, shot)
    return episodes_from(fetch, part, classes=len(part.counts), shape=shape, **size)


def _fetch_from_pools(shot: int, data: ClassDataset, key: Key, chosen: Array, number: int) -> Array:
    """Draw images [way, number, ...]: the first `shot` of a class from its support pool."""
    supporting = jnp.arange(number) < shot
    sizes = jnp.where(supporting[None], DRAWINGS, data.counts[chosen][:, None] - DRAWINGS)
    drawing = uniform_below(key, sizes.astype(jnp.int32)) + jnp.where(supporting, 0, DRAWINGS)[None]
    rows = data.offsets[chosen][:, None] + drawing  # [way, number]
    return jnp.asarray(data.examples).at[rows].get(mode="promise_in_bounds")
