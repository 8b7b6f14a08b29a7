"""The inputs that a network takes, checked by their shapes alone: a compiled program does not change."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

from jmeta.types import Key, Model, PyTree


class InputError(ValueError):
    """Inputs that a network does not take; another `option` would do, a "backbone" or an "image_size"."""

    def __init__(self, message: str, option: Literal["backbone", "image_size"]) -> None:
        super().__init__(message)
        self.option = option


def on_images(name: str, model: Model, side: Callable[[int], int]) -> Model:
    """Let a network refuse inputs that are no images, or images of which it leaves no feature.

    Args:
      name: the network's.
      model: takes images [image, height, width, channel].
      side: maps the height, or the width, of an image to that of the network's last feature map.

    Returns:
      The same network, whose `init` and `apply` raise InputError for other inputs.
    """
    return _checked(model, lambda x: check_images(name, x, least_side(side)))


def on_vectors(name: str, model: Model) -> Model:
    """Let a network refuse inputs that are no vectors [example, feature], with InputError."""
    return _checked(model, lambda x: _check_vectors(name, x))


def on_arrays(name: str, model: Model) -> Model:
    """Let a network that flattens its inputs refuse those without a value, with InputError."""
    return _checked(model, lambda x: _check_values(name, x))


def least_side(side: Callable[[int], int]) -> int:
    """Find the least height or width of which a network leaves something."""
    return next(size for size in itertools.count(1) if side(size) > 0)


def layer_side(
    size: int, *, kernel: int = 3, padded: bool = True, stride: int = 1, pool: bool = False
) -> int:
    """Compute the height or width after a convolution, and 2x2 max pooling if `pool`."""
    size = size if padded else max(size - kernel + 1, 0)
    size = -(-size // stride)
    return size // 2 if pool else size


def check_images(name: str, x: Any, least: int) -> None:
    """Raise InputError unless `x` are images [image, height, width, channel], both sides at least `least`."""
    shape = _shape(name, x)
    if len(shape) != 4:
        advice = "mlp and identity take vectors"
        if len(shape) == 3:
            advice = "gray images need an axis of one channel, x[..., None]"
        raise InputError(
            f"{name} takes images [example, height, width, channel] and these inputs are {_text(shape)}; "
            f"{advice}",
            "backbone",
        )
    height, width = shape[1:3]
    if min(height, width) < least:
        raise InputError(
            f"{name}: images of {height}x{width} leave no feature; expected at least {least}x{least}",
            "image_size",
        )
    _check_values(name, x)


def _check_vectors(name: str, x: Any) -> None:
    shape = _shape(name, x)
    if len(shape) != 2:
        raise InputError(
            f"{name} takes vectors [example, feature] and these inputs are {_text(shape)}; mlp flattens them",
            "backbone",
        )
    _check_values(name, x)


def _check_values(name: str, x: Any) -> None:
    shape = _shape(name, x)
    if not shape or 0 in shape[1:]:
        raise InputError(f"{name}: these inputs are {_text(shape)}, without a value", "backbone")


def _shape(name: str, x: Any) -> tuple[int, ...]:
    if not hasattr(x, "shape"):
        raise InputError(f"{name} takes an array and these inputs are a {type(x).__name__}", "backbone")
    return tuple(x.shape)


def _text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(['example', *map(str, shape[1:])])}]" if shape else "a number"


def _checked(model: Model, check: Callable[[Any], None]) -> Model:
    """Check the inputs of `model` before its own functions see them."""

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        check(x)
        return model.init(key, x)

    def apply(params: PyTree, state: PyTree, x: PyTree, **settings: Any) -> tuple[PyTree, PyTree]:
        check(x)
        return model.apply(params, state, x, **settings)

    return Model(init, apply)
