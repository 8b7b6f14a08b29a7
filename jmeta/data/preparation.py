"""From the examples of a data set to the inputs of a network: scaled, augmented and normalized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jmeta.data.transforms import Transform, augmentation, normalize
from jmeta.types import Array, Key


class Preparation(NamedTuple):
    """The static settings of `prepare_examples`. Equal settings compare equal, so that jit compiles once."""

    transform: Transform | None
    mean: float | tuple[float, ...] | None
    std: float | tuple[float, ...] | None


def preparation(
    transform: Transform | str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Preparation:
    """Check and freeze the settings with which examples are prepared; see `jmeta.data.episodes.episodes`.

    Raises ValueError if `std` is not positive or no augmentation has the name `transform`.
    """
    if std is not None and np.min(std) <= 0:
        raise ValueError(f"episodes: std is {std}; expected positive numbers")
    transform = augmentation(transform) if isinstance(transform, str) else transform
    return Preparation(transform, _static(mean), _static(std))


def prepare_examples(preparation: Preparation, key: Key, x: Array) -> Array:
    """Divide uint8 images [example, height, width, channel] by 255, augment with `key`, then normalize.

    Other examples [example, ...] are not scaled; uint8 becomes float32.
    """
    transform, mean, std = preparation
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / (255 if x.ndim == 4 else 1)
    if transform is not None:
        x = transform(key, x)
    if mean is not None or std is not None:
        x = normalize(0.0 if mean is None else mean, 1.0 if std is None else std)(key, x)
    return x


def _static(values: Any) -> float | tuple[float, ...] | None:
    if values is None or np.ndim(values) == 0:
        return None if values is None else float(values)
    return tuple(float(value) for value in values)
