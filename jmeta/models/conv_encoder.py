"""A convolutional encoder that treats every image by itself, for examples that arrive one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from jmeta.models.bridge import from_linen
from jmeta.models.layers import Conv, Initialise, Weights, dense, max_pool
from jmeta.types import Array, Model


class _ConvEncoder(nn.Module):
    filters: int
    pooled: tuple[bool, ...]
    strides: tuple[int, ...]
    padded: bool
    groups: int | None
    weights: Weights
    initialise: Initialise
    last_relu: bool
    head: int | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        settings: dict[str, Any] = {
            "weights": self.weights,
            "padded": self.padded,
            "initialise": self.initialise,
        }
        size = "x".join(map(str, x.shape[1:3]))
        for layer, (pool, stride) in enumerate(zip(self.pooled, self.strides)):
            x = Conv(self.filters, stride=stride, name=f"conv_{layer}", **settings)(x)
            if self.groups is not None:
                x = nn.GroupNorm(num_groups=self.groups, name=f"norm_{layer}", dtype=x.dtype)(x)
            if self.last_relu or layer < len(self.pooled) - 1:
                x = nn.relu(x)
            x = max_pool(x) if pool else x
            if 0 in x.shape[1:]:
                raise ValueError(f"conv_encoder: images of {size} leave no feature; expected larger ones")
        x = x.reshape(x.shape[0], -1)
        return x if self.head is None else dense(self.head, self.initialise, x, name="head")


def conv_encoder(
    *,
    filters: int = 64,
    pooled: Sequence[bool] = (True, True, True, False),
    strides: Sequence[int] | None = None,
    padded: bool = True,
    groups: int | None = 8,
    weights: Weights = "shared",
    initialise: Initialise = "lecun_normal",
    last_relu: bool = True,
    head: int | None = None,
) -> Model:
    """Blocks of 3x3 convolution, group normalisation and ReLU, with 2x2 max pooling where `pooled` says so.

    Images [image, height, width, channel] become features [image, d], or `head` outputs: 576 features of a
    28x28 image with 64 filters. Unlike batch normalisation, which is ill-defined where examples arrive one by
    one, group normalisation (Wu & He 2018) lets no image see another; `groups` = `filters` is instance
    normalisation, None normalises nothing. `strides` are the convolutions' (1 if None); `padded=False`
    convolves without zeros outside; `weights`: see `conv4`; `initialise`: see `kernel_initialiser`;
    `last_relu=False` leaves the last block linear. Raises ValueError where `filters` is no multiple of
    `groups`, where `strides` and `pooled` do not name as many blocks and, at `init`, for too small images.
    """
    strides = (1,) * len(pooled) if strides is None else tuple(strides)
    if groups is not None and filters % groups:
        raise ValueError(f"conv_encoder: filters={filters}; expected a multiple of the {groups} groups")
    if len(strides) != len(pooled):
        raise ValueError(f"conv_encoder: {len(strides)} strides for {len(pooled)} blocks; expected as many")
    return from_linen(
        _ConvEncoder(filters, tuple(pooled), strides, padded, groups, weights, initialise, last_relu, head)
    )
