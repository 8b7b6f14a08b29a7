"""Plain batches of the examples of a split: random ones to train on, and each example once to test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.data.class_dataset import ClassDataset
from jmeta.data.preparation import Preparation, preparation, prepare_examples
from jmeta.data.sampling import uniform_below
from jmeta.data.source import Sampler
from jmeta.data.transforms import Transform
from jmeta.types import Batch, Key, Task


def supervised_batches(
    dataset: ClassDataset,
    *,
    size: int,
    transform: Transform | str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Sampler:
    """Make the sampler of plain batches of `size` examples of all classes, for supervised training.

    `sampler(key) -> Task`, whose query set (and support set, the same batch) has x [size, ...], drawn with
    replacement, every example equally likely, and the class index of each example as y [size]. `transform`,
    `mean` and `std` are those of `jmeta.data.episodes.episodes`. Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"supervised_batches: size={size}; expected at least 1")
    draw = _BatchDraw(size, preparation(transform, mean, std))
    return jax.tree_util.Partial(draw, jax.device_put(dataset))


class _BatchDraw(NamedTuple):
    """The static part of the sampler of `supervised_batches`."""

    size: int
    preparation: Preparation

    def __call__(self, dataset: ClassDataset, key: Key) -> Task:
        ends = jnp.cumsum(dataset.counts)  # a split's classes need not be adjacent among the examples
        index = uniform_below(key, jnp.full(self.size, ends[-1], jnp.int32))
        y = jnp.searchsorted(ends, index, side="right").astype(jnp.int32)
        rows = dataset.offsets[y] + index - (ends[y] - dataset.counts[y])
        x = jnp.asarray(dataset.examples).at[rows].get(mode="promise_in_bounds")
        batch = Batch(prepare_examples(self.preparation, jax.random.fold_in(key, 1), x), y)
        return Task(batch, batch)


def full_batches(
    dataset: ClassDataset,
    *,
    size: int,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Task:
    """Arrange all examples of a split, each once, as tasks of `size` for `jmeta.evaluate`.

    Returns a Task with leaves [task, size, ...], whose query and support sets are the same batch. Raises
    ValueError if `size` does not divide the number of examples.
    """
    counts, offsets = np.asarray(dataset.counts), np.asarray(dataset.offsets)
    total = int(counts.sum())
    if size < 1 or total % size:
        raise ValueError(f"full_batches: size={size} does not divide the {total} examples; choose a divisor")
    rows = np.concatenate([np.arange(first, first + count) for first, count in zip(offsets, counts)])
    y = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    examples = jnp.asarray(dataset.examples[rows])
    x = prepare_examples(preparation(None, mean, std), jax.random.key(0), examples)
    batch = Batch(x.reshape(-1, size, *x.shape[1:]), jnp.asarray(y.reshape(-1, size)))  # [task, size, ...]
    return Task(batch, batch)
