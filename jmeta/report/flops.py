"""Count the arithmetic of one adaptation step analytically."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jmeta.memory.cl_lstm import LAYERS, Inject, Skip


def cl_lstm_flops(
    image: Sequence[int],
    way: int,
    *,
    filters: int = 64,
    hidden: int = 256,
    inject: Inject = "first",
    skip: Skip = "add",
) -> int:
    """Count the floating-point operations of one step of CL+LSTM on an image (height, width, channel).

    Convolutions and products only, two for a multiply-add, padding included (Babu et al. 2021, section 4.3:
    0.40 GFLOPs). As the paper counts, label planes are input channels; `jmeta.cl_lstm` spends these in its
    first layer only.
    """
    height, width, channels = image
    total = 0
    for layer in range(LAYERS):
        inputs = channels if layer == 0 else filters
        if layer == LAYERS - 1 and skip == "concat":
            inputs += filters
        if inject == "all" or (inject == "first" and layer == 0):
            inputs += way
        places = (height >> layer) * (width >> layer)
        total += places * 9 * (inputs + filters) * 4 * filters
    features = (height >> (LAYERS - 1)) * (width >> (LAYERS - 1)) * filters
    total += (features + way + hidden) * 4 * hidden + hidden * way
    return 2 * total


def conv_encoder_flops(
    image: Sequence[int],
    *,
    filters: int = 64,
    pooled: Sequence[bool] = (True, True, True, False),
    strides: Sequence[int] | None = None,
    padded: bool = True,
) -> int:
    """Count the operations of one image through the convolutions of `jmeta.conv_encoder`."""
    return _convolutions(image, filters, pooled, strides, padded)[0]


class Cost(NamedTuple):
    """Operations for one example: of a `forward` pass and of an `adaptation` step.

    A backward pass costs twice the forward pass of the layers that adapt (Babu et al. 2021, section 4.3).
    """

    forward: int
    adaptation: int


def oml_cost(
    image: Sequence[int],
    outputs: int,
    *,
    filters: int = 256,
    strides: Sequence[int] = (1, 1, 1, 2),
    padded: bool = False,
    hidden: int = 1024,
) -> Cost:
    """Count the cost of `jmeta.oml`, whose convolutions do not adapt.

    The paper counts three forward passes: 4.38 GFLOPs.
    """
    body, features = _convolutions(image, filters, (False,) * len(strides), strides, padded)
    head = 2 * (features * hidden + hidden * outputs)
    return Cost(body + head, body + 3 * head)


def anml_cost(
    image: Sequence[int],
    outputs: int,
    *,
    filters: int = 256,
    modulator_filters: int = 112,
    pooled: Sequence[bool] = (True, True, False),
    modulator_pooled: Sequence[bool] = (True, True, False),
    padded: bool = False,
) -> Cost:
    """Count the cost of `jmeta.anml`, whose neuromodulatory network does not adapt."""
    trunk, features = _convolutions(image, filters, pooled, None, padded)
    modulator, modulated = _convolutions(image, modulator_filters, modulator_pooled, None, padded)
    modulator += 2 * modulated * features
    prediction = trunk + 2 * features * outputs
    return Cost(modulator + prediction, modulator + 3 * prediction)


def _convolutions(
    image: Sequence[int], filters: int, pooled: Sequence[bool], strides: Sequence[int] | None, padded: bool
) -> tuple[int, int]:
    """Count the operations of 3x3 convolutions on an image, and the number of features after them."""
    height, width, channels = image
    total = 0
    for pool, stride in zip(pooled, strides or (1,) * len(pooled)):
        rim = 0 if padded else 2
        height, width = -(-(height - rim) // stride), -(-(width - rim) // stride)
        total += 2 * height * width * 9 * channels * filters
        height, width, channels = height // (1 + pool), width // (1 + pool), filters
    return total, height * width * channels
