"""A convolutional encoder that treats each image on its own, for examples that arrive one at a time.

Babu et al. (2021) do not name the normalization of their CNN encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from jmeta.models.conv import Conv, WeightSharing, max_pool
from jmeta.models.init import Initialization
from jmeta.models.inputs import layer_side, on_images
from jmeta.models.mlp import dense
from jmeta.models.wrap import from_linen
from jmeta.types import Array, Model


class _ConvEncoder(nn.Module):
    filters: int
    pooled: tuple[bool, ...]
    strides: tuple[int, ...]
    padded: bool
    groups: int | None
    weights: WeightSharing
    initialize: Initialization
    last_relu: bool
    head: int | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        settings: dict[str, Any] = {
            "weights": self.weights,
            "padded": self.padded,
            "initialize": self.initialize,
        }
        for layer, (pool, stride) in enumerate(zip(self.pooled, self.strides)):
            x = Conv(self.filters, stride=stride, name=f"conv_{layer}", **settings)(x)
            if self.groups is not None:
                x = nn.GroupNorm(num_groups=self.groups, name=f"norm_{layer}", dtype=x.dtype)(x)
            if self.last_relu or layer < len(self.pooled) - 1:
                x = nn.relu(x)
            x = max_pool(x) if pool else x
        x = x.reshape(x.shape[0], -1)  # [image, d]
        return x if self.head is None else dense(self.head, self.initialize, x, name="head")


def conv_encoder(
    *,
    filters: int = 64,
    pooled: Sequence[bool] = (True, True, True, False),
    strides: Sequence[int] | None = None,
    padded: bool = True,
    groups: int | None = 8,
    weights: WeightSharing = "shared",
    initialize: Initialization = "lecun_normal",
    last_relu: bool = True,
    head: int | None = None,
) -> Model:
    """Build blocks of 3x3 convolution, group normalization, ReLU and optional 2x2 max pooling.

    Images [image, height, width, channel] become features [image, d]: 576 features of a 28x28 image with 64
    filters. Unlike batch normalization, which is ill-defined if examples arrive one by one, group
    normalization (Wu & He 2018) lets no image see another.

    Args:
      filters: channels of each convolution.
      pooled: for each block, whether it ends in max pooling.
      strides: of the convolutions; None for 1.
      padded: surround images with zeros.
      groups: number of groups; `filters` for instance normalization, None for no normalization.
      weights: see `jmeta.conv4`.
      initialize: see `jmeta.models.init.kernel_initializer`.
      last_relu: end the last block in a ReLU; otherwise it is linear.
      head: outputs of a linear classifier on the features; None for none.

    Raises:
      ValueError: if `filters` is not a multiple of `groups`, if `strides` and `pooled` differ in length and,
        at `init` and `apply`, for inputs that are no images or images too small to leave a feature.
    """
    strides = (1,) * len(pooled) if strides is None else tuple(strides)
    if groups is not None and filters % groups:
        raise ValueError(f"conv_encoder: filters={filters}; expected a multiple of the {groups} groups")
    if len(strides) != len(pooled):
        raise ValueError(f"conv_encoder: {len(strides)} strides for {len(pooled)} blocks; expected as many")

    def side(size: int) -> int:
        for pool, stride in zip(pooled, strides):
            size = layer_side(size, padded=padded, stride=stride)
            if groups == filters and size == 1:  # instance normalization of one pixel leaves nothing of it
                return 0
            size = size // 2 if pool else size
        return size

    network = _ConvEncoder(
        filters, tuple(pooled), strides, padded, groups, weights, initialize, last_relu, head
    )
    return on_images("conv_encoder", from_linen(network), side)
