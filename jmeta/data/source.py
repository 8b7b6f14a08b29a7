"""The data set that every source returns: its facts, its arrays by split, and its episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from jmeta.data.class_dataset import ClassDataset
from jmeta.types import Key, Task

Sampler = Callable[[Key], Task]
SPLITS = ("train", "validation", "test")


class DatasetInfo(NamedTuple):
    """The facts of a data set, for logs and results.

    `name`; `license`; `split`, the published split or the rule that divides the classes; `classes`, the class
    names of each split in the order of their labels (empty for procedural sources); `shape` of one example
    after loading; `notes` for readers of the results.
    """

    name: str
    license: str
    split: str
    classes: Mapping[str, tuple[str, ...]]
    shape: tuple[int, ...]
    notes: tuple[str, ...] = ()


class Dataset(NamedTuple):
    """A source of tasks.

    `episodes(split, *, way, shot, query, **options)` returns a sampler, a callable pytree `(key) -> Task`,
    for split "train", "validation" or "test"; `splits` maps each split to its arrays (empty for procedural
    sources).
    """

    info: DatasetInfo
    episodes: Callable[..., Sampler]
    splits: Mapping[str, ClassDataset] = {}


def check_split(split: str, available: Iterable[str] = SPLITS) -> str:
    """Return `split`, or raise ValueError if it is not in `available`."""
    if split not in (known := tuple(available)):
        raise ValueError(f"split {split!r} is not one of {', '.join(known)}")
    return split
