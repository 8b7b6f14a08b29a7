"""Labeled examples grouped by class, in the layout from which episodes are drawn on the device."""

from __future__ import annotations

from typing import NamedTuple

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


def from_arrays(examples: np.ndarray, labels: np.ndarray) -> ClassDataset:
    """Group labeled examples by class, in host memory.

    The index of a class is the rank of its label among the sorted labels that occur; the order within a class
    does not change.

    Args:
      examples: uint8 images [total, height, width, channel], or floats [total, ...], which become float32.
      labels: [total] integers or names, in any order.

    Raises:
      ValueError: for shapes that do not fit, other types, and floats that are not finite.
    """
    examples, labels = _check_examples(np.asarray(examples)), np.asarray(labels)
    if labels.shape != examples.shape[:1]:
        raise ValueError(
            f"from_arrays: labels of shape {labels.shape} for {len(examples)} examples; give one label each"
        )
    if labels.dtype.kind not in "biuSU":
        raise ValueError(
            f"from_arrays: labels of type {labels.dtype}; give integers or names (regression targets do not "
            "make classes: write a sampler, see jmeta.data.sources.sinusoid)"
        )
    _, class_index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if (np.diff(class_index) < 0).any():
        examples = examples[np.argsort(class_index, kind="stable")]
    offsets = np.cumsum(counts) - counts
    return ClassDataset(examples, offsets.astype(np.int32), counts.astype(np.int32))


def _check_examples(examples: np.ndarray) -> np.ndarray:
    if examples.ndim < 2 or examples.size == 0:
        raise ValueError(
            f"from_arrays: examples of shape {examples.shape}; expected at least one, as images "
            "[total, height, width, channel] or vectors [total, feature]"
        )
    if examples.dtype == np.uint8:
        if examples.ndim == 3:
            raise ValueError(
                f"from_arrays: uint8 images of shape {examples.shape} have no channel axis; give "
                "examples[..., None]"
            )
        return examples
    if examples.dtype.kind != "f":
        raise ValueError(
            f"from_arrays: examples of type {examples.dtype}; give uint8 images (0 to 255) or float vectors"
        )
    if not np.isfinite(examples).all():
        raise ValueError("from_arrays: the examples contain NaN or infinity; remove or replace those rows")
    return examples.astype(np.float32)
