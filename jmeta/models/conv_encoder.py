"""A convolutional encoder that treats every image by itself, for examples that arrive one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from flax import linen as nn

from jmeta.models.bridge import from_linen
from jmeta.models.layers import Conv, Weights, max_pool
from jmeta.types import Array, Model


class _ConvEncoder(nn.Module):
    filters: int
    pooled: tuple[bool, ...]
    groups: int
    weights: Weights
    last_relu: bool
    head: int | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for layer, pool in enumerate(self.pooled):
            x = Conv(self.filters, weights=self.weights, name=f"conv_{layer}")(x)
            x = nn.GroupNorm(num_groups=self.groups, name=f"norm_{layer}", dtype=x.dtype)(x)
            if self.last_relu or layer < len(self.pooled) - 1:
                x = nn.relu(x)
            x = max_pool(x) if pool else x
        x = x.reshape(x.shape[0], -1)
        return x if self.head is None else nn.Dense(self.head, dtype=x.dtype, name="head")(x)


def conv_encoder(
    *,
    filters: int = 64,
    pooled: Sequence[bool] = (True, True, True, False),
    groups: int = 8,
    weights: Weights = "shared",
    last_relu: bool = True,
    head: int | None = None,
) -> Model:
    """Blocks of 3x3 convolution, group normalisation and ReLU, with 2x2 max pooling where `pooled` says so.

    Images [image, height, width, channel] become features [image, d], or `head` outputs: 576 features of a
    28x28 image with 64 filters. Unlike batch normalisation, which is ill-defined where examples arrive one by
    one, group normalisation (Wu & He 2018) lets no image see another. `last_relu=False` leaves the last
    block linear. Raises ValueError where `filters` is no multiple of `groups`.
    """
    if filters % groups:
        raise ValueError(f"conv_encoder: filters={filters}, groups={groups}; expected a multiple")
    return from_linen(_ConvEncoder(filters, tuple(pooled), groups, weights, last_relu, head))
