"""OSAKA: a stream of small batches whose domain, classes and labels change without a word.

Caccia et al., Online Fast Adaptation and Knowledge Accumulation, NeurIPS 2020. At every step there comes a
batch of `way` classes with `shot` images each. With probability 1 - `stay` the task switches: a domain is
drawn, then its classes in random order, which gives them their labels. The learner is told none of it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.data.class_dataset import ClassDataset
from jmeta.data.episodes import below, distinct, episodes_from
from jmeta.data.source import Sampler
from jmeta.types import Array, Batch, Key

DRAWINGS = 10  # of a character in the support pool; the rest are the query pool


class Domains(NamedTuple):
    """The images of all domains, grouped by class, the classes of a domain one after another.

    `examples` [total, height, width, channel] uint8; `offsets` and `counts` [class] int32; `first` and
    `classes` [domain] int32: a domain's first class and its number of classes; `shares` [domain] float32: how
    often a task is of the domain.
    """

    examples: Array
    offsets: Array
    counts: Array
    first: Array
    classes: Array
    shares: Array


class Timeline(NamedTuple):
    """When tasks begin: `began` [step] int32, the step at which each step's task began; `key` draws what is
    shown. A longer timeline of the same key begins with the shorter one."""

    key: Key
    began: Array


class Shown(NamedTuple):
    """One step: the `batch`, x [way * shot, ...] float32 in 0..1 grouped by label, and what the learner does
    not see, its `domain` [] int32 and whether the task has just `switched` []."""

    batch: Batch
    domain: Array
    switched: Array


def inverted(data: ClassDataset) -> ClassDataset:
    """Images of ink on paper in the place of light on dark, as OSAKA shows Omniglot beside MNIST."""
    return data._replace(examples=255 - np.asarray(data.examples))


def together(parts: Sequence[ClassDataset]) -> ClassDataset:
    """The classes of several parts, one part after another, as one."""
    rows = np.cumsum([0, *(len(part.examples) for part in parts)])
    offsets = np.concatenate([np.asarray(part.offsets) + row for part, row in zip(parts, rows)])
    counts = np.concatenate([np.asarray(part.counts) for part in parts])
    examples = np.concatenate([np.asarray(part.examples) for part in parts])
    return ClassDataset(examples, offsets.astype(np.int32), counts.astype(np.int32))


def domains(sources: Sequence[ClassDataset], shares: Sequence[float]) -> Domains:
    """Put the domains on the device; of each, every class is cut to the size of the smallest.

    Raises ValueError where there are not as many shares as sources, or they do not add up to 1.
    """
    if len(shares) != len(sources) or not np.isclose(sum(shares), 1):
        raise ValueError(
            f"domains: shares {tuple(shares)} for {len(sources)} sources; expected one each, 1 in all"
        )
    cut = [source._replace(counts=np.full(len(source.counts), np.min(source.counts))) for source in sources]
    classes = np.asarray([len(source.counts) for source in sources], np.int32)
    first = (np.cumsum(classes) - classes).astype(np.int32)
    numbers = (first, classes, np.asarray(shares, np.float32))
    return Domains(*jax.device_put((*together(cut), *numbers)))


def timeline(key: Key, *, steps: int, stay: float) -> Timeline:
    """Draw the switches of a stream of `steps` batches: one before the first step, and one before every other
    with probability 1 - `stay`.

    Raises ValueError for a probability outside 0..1, or no step.
    """
    if not 0 <= stay <= 1 or steps < 1:
        raise ValueError(
            f"timeline: stay={stay}, steps={steps}; expected a probability and at least one step"
        )
    key_switch, key_shown = jax.random.split(key)
    step = jnp.arange(steps, dtype=jnp.int32)
    uniform = jax.vmap(lambda index: jax.random.uniform(jax.random.fold_in(key_switch, index)))(step)
    switched = (uniform >= stay) | (step == 0)
    return Timeline(key_shown, jax.lax.cummax(jnp.where(switched, step, 0)))


def require_classes(data: Domains, way: int) -> None:
    """Raise ValueError where a domain has fewer classes than a batch of `way` needs."""
    least = int(np.min(data.classes))
    if way > least:
        raise ValueError(f"way={way}; expected at most the {least} classes of the smallest domain")


def shown_at(data: Domains, line: Timeline, step: Array | int, *, way: int, shot: int) -> Shown:
    """What is shown at a step: the classes that were drawn when its task began, and images drawn with
    replacement from the whole of each class.

    `way` may not exceed the classes of the smallest domain, which this cannot see inside of jit: see
    `require_classes`.
    """
    began = line.began[step]
    key_task, key_images = jax.random.split(line.key)
    key_domain, key_classes = jax.random.split(jax.random.fold_in(key_task, began))
    domain = jax.random.choice(key_domain, data.shares.shape[0], p=data.shares)
    chosen = data.first[domain] + distinct(key_classes, data.classes[domain], way)
    sizes = jnp.broadcast_to(data.counts[chosen][:, None], (way, shot))
    rows = data.offsets[chosen][:, None] + below(jax.random.fold_in(key_images, step), sizes)
    x = data.examples.at[rows.reshape(-1)].get(mode="promise_in_bounds").astype(jnp.float32) / 255
    y = jnp.repeat(jnp.arange(way, dtype=jnp.int32), shot)
    return Shown(Batch(x, y), domain.astype(jnp.int32), began == step)


def pretraining_episodes(
    data: ClassDataset, classes: Sequence[int] | np.ndarray, *, way: int, shot: int, query: int
) -> Sampler:
    """Make the sampler of pre-training episodes of some classes of Omniglot: `sampler(key) -> Task`.

    The first ten drawings of a character are the pool of support images, the others of query images, and both
    are drawn with replacement, as in the released code. Raises ValueError where a class has no more than ten
    drawings, or there are fewer classes than `way`.
    """
    part = data._replace(offsets=np.asarray(data.offsets)[classes], counts=np.asarray(data.counts)[classes])
    if np.min(part.counts) <= DRAWINGS:
        raise ValueError(
            f"pretraining_episodes: a class has {np.min(part.counts)} drawings; expected more than {DRAWINGS}"
        )
    size = {"way": way, "shot": shot, "query": query}
    shape, fetch = part.examples.shape[1:], functools.partial(_fetch_from_pools, shot)
    return episodes_from(fetch, part, classes=len(part.counts), shape=shape, **size)


def _fetch_from_pools(shot: int, data: ClassDataset, key: Key, chosen: Array, number: int) -> Array:
    """An episode's images [way, number, ...]: the first `shot` of a class are of its support pool."""
    supporting = jnp.arange(number) < shot
    sizes = jnp.where(supporting[None], DRAWINGS, data.counts[chosen][:, None] - DRAWINGS)
    drawn = below(key, sizes.astype(jnp.int32)) + jnp.where(supporting, 0, DRAWINGS)[None]
    rows = data.offsets[chosen][:, None] + drawn
    return jnp.asarray(data.examples).at[rows].get(mode="promise_in_bounds")
