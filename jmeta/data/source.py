"""What every data source returns: its facts, its arrays by split, and a maker of episode samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from jmeta.types import Key, Task

if TYPE_CHECKING:
    from jmeta.data.class_dataset import ClassDataset

Sampler = Callable[[Key], Task]
SPLITS = ("train", "validation", "test")


class DatasetInfo(NamedTuple):
    """The facts of a data set, for logs and results.

    `name`; `licence`; `split`, which split it is and where that comes from; `classes`, the class names of
    each split in the order of their labels (empty for procedural sources); `shape` of one example after
    loading; `notes`, what a reader of results should know.
    """

    name: str
    licence: str
    split: str
    classes: Mapping[str, tuple[str, ...]]
    shape: tuple[int, ...]
    notes: tuple[str, ...] = ()


class Dataset(NamedTuple):
    """A source of tasks.

    `episodes(split, *, way, shot, query, **options)` returns a sampler, a callable pytree `(key) -> Task`,
    for split "train", "validation" or "test"; `splits` holds the arrays of each split (empty for procedural
    sources).
    """

    info: DatasetInfo
    episodes: Callable[..., Sampler]
    splits: Mapping[str, ClassDataset] = {}


def check_split(split: str, available: Iterable[str] = SPLITS) -> str:
    """Return `split`, or raise ValueError where it is none of `available`."""
    if split not in (known := tuple(available)):
        raise ValueError(f"split {split!r} is none of {', '.join(known)}")
    return split


def from_splits(info: DatasetInfo, splits: Mapping[str, ClassDataset]) -> Dataset:
    """Make a `Dataset` of arrays grouped by class.

    `splits` maps "train", "validation" and "test" to a ClassDataset each, in host memory: a split goes to the
    device when episodes are first drawn from it. The returned `episodes` passes its options to
    `jmeta.data.episodes.episodes`, and raises ValueError for an unknown split or an episode that asks for
    more classes or examples than there are.
    """
    splits = dict(splits)
    on_device = cache(lambda split: jax.device_put(splits[check_split(split, splits)]))

    def episodes(split: str, **options: Any) -> Sampler:
        from jmeta.data.episodes import episodes  # which imports this module

        return episodes(on_device(split), **options)

    return Dataset(info, episodes, splits)
