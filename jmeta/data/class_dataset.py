"""Labeled examples grouped by class, in the layout from which episodes are drawn on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jmeta.types import Array


class ClassDataset(NamedTuple):
    """The examples of a split, grouped by class: class c has rows offsets[c] to offsets[c] + counts[c].

    `examples` [total, height, width, channel] uint8 images or [total, ...] float32 vectors;
    `offsets` [class] int32, the first row of each class; `counts` [class] int32, its number of rows.
    The arrays may be in host memory: `jmeta.data.episodes.episodes` puts them on the device.
    """

    examples: Array | np.ndarray
    offsets: Array | np.ndarray
    counts: Array | np.ndarray


def from_arrays(
    examples: np.ndarray, labels: np.ndarray, *, classes: Sequence[Any] | np.ndarray | None = None
) -> ClassDataset:
    """Group labeled examples by class, in host memory.

    The index of a class is the place of its label in `classes`; the order within a class does not change.

    Args:
      examples: uint8 images [total, height, width, channel], which samplers divide by 255; or floats
        [total, ...] or uint8 that are no images, which become float32 as they are.
      labels: [total] integers or names, in any order.
      classes: [class] the labels of the whole data set, by default those that occur, sorted. Give the parts
        of a data set the same list: a class that a part lacks has no rows there, and the others keep their
        index.

    Raises:
      ValueError: for shapes that do not fit, images with the channel first, other types, masked values,
        floats that are not finite as float32, and labels that are not in `classes`, or twice.
    """
    examples, labels = _check_examples(_unmasked(examples, "examples")), _unmasked(labels, "labels")
    if labels.shape != examples.shape[:1]:
        raise ValueError(
            f"from_arrays: labels of shape {labels.shape} for {len(examples)} examples; give one label each"
        )
    if labels.dtype.kind not in "biuSU":
        raise ValueError(
            f"from_arrays: labels of type {labels.dtype}; give integers or names (regression targets do not "
            "make classes: write a sampler, see jmeta.data.sources.sinusoid)"
        )
    class_index, counts = _rank(labels, classes)
    if (np.diff(class_index) < 0).any():
        examples = examples[np.argsort(class_index, kind="stable")]
    offsets = np.cumsum(counts) - counts
    return ClassDataset(examples, offsets.astype(np.int32), counts.astype(np.int32))


def _rank(labels: np.ndarray, classes: Sequence[Any] | np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the class index of each label, [total], and the number of labels of each class, [class]."""
    labels_there, rank, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if classes is None:
        return rank, counts
    place = {label: index for index, label in enumerate(np.asarray(classes).tolist())}
    if len(place) != len(classes):
        raise ValueError(f"from_arrays: {len(classes)} classes, of which {len(place)} differ; name each once")
    if unknown := [label for label in labels_there.tolist() if label not in place]:
        known = f"the {len(place)} classes {list(place)[0]!r} to {list(place)[-1]!r}" if place else "no class"
        raise ValueError(f"from_arrays: label {unknown[0]!r} is not in `classes`; expected one of {known}")
    class_index = np.array([place[label] for label in labels_there.tolist()])[rank]
    return class_index, np.bincount(class_index, minlength=len(place))


def _unmasked(values: Any, what: str) -> np.ndarray:
    parts = values if isinstance(values, (list, tuple)) else [values]
    if number := sum(int(np.ma.count_masked(part)) for part in parts if np.ma.is_masked(part)):
        raise ValueError(
            f"from_arrays: {number} values of the {what} are masked; remove those rows, or fill them "
            "with .filled()"
        )
    return np.asarray(values)


def _check_examples(examples: np.ndarray) -> np.ndarray:
    if examples.ndim < 2 or examples.size == 0:
        raise ValueError(
            f"from_arrays: examples of shape {examples.shape}; expected at least one, as images "
            "[total, height, width, channel] or vectors [total, feature]"
        )
    if examples.dtype != np.uint8 and examples.dtype.kind != "f":
        raise ValueError(
            f"from_arrays: examples of type {examples.dtype}; give uint8 images (0 to 255) or float vectors"
        )
    if examples.dtype == np.uint8 and examples.ndim == 3:
        raise ValueError(
            f"from_arrays: uint8 images of shape {examples.shape} have no channel axis; give "
            "examples[..., None]"
        )
    if _is_channels_first(examples):
        raise ValueError(
            f"from_arrays: examples of shape {examples.shape} look like images with the channel first; give "
            "[total, height, width, channel], by examples.transpose(0, 2, 3, 1)"
        )
    if examples.dtype == np.uint8 and examples.ndim == 4:
        return examples
    with np.errstate(over="ignore"):
        converted = examples.astype(np.float32)
    if not np.isfinite(converted).all():
        if np.isfinite(examples).all():
            raise ValueError(
                f"from_arrays: examples of type {examples.dtype} up to {np.abs(examples).max():.3g} are "
                "infinite as float32, the type in which they are used; scale them to less than 3.4e+38"
            )
        raise ValueError("from_arrays: the examples contain NaN or infinity; remove or replace those rows")
    return converted


def _is_channels_first(examples: np.ndarray) -> bool:
    """Say whether examples have the shape of images [total, channel, height, width], as other libraries have
    them. Floats may be maps of features, so that theirs must be square too."""
    if examples.ndim != 4:
        return False
    channels = (1, 3, 4)
    _, first, height, last = examples.shape
    square = height == last or examples.dtype == np.uint8
    return first in channels and last not in channels and height > 4 and square
