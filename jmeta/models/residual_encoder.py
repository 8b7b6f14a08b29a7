"""The residual encoder of adaptive posterior learning, which treats each image on its own.

Ramalho & Garnelo, Adaptive Posterior Learning, ICLR 2019.
"""

from __future__ import annotations

from flax import linen as nn

from jmeta.models.conv import Conv
from jmeta.models.inputs import layer_side, on_images
from jmeta.models.wrap import from_linen
from jmeta.types import Array, Model

_STAGES = 5


class _ResidualEncoder(nn.Module):
    filters: int
    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def layer(x: Array, name: str, stride: int = 1) -> Array:
            x = nn.GroupNorm(num_groups=self.groups, name=f"norm_{name}", dtype=x.dtype)(x)
            return Conv(self.filters, stride=stride, name=f"conv_{name}")(nn.relu(x))

        x = Conv(self.filters, name="conv_first")(x)
        for stage in range(_STAGES):
            x = layer(x, f"{stage}_0", stride=2)
            for block in (1, 2):
                x = x + layer(x, f"{stage}_{block}")
        x = x.reshape(x.shape[0], -1)  # [image, d]
        return nn.LayerNorm(name="norm_last", dtype=x.dtype)(x)


def residual_encoder(*, filters: int = 64, groups: int = 8) -> Model:
    """Build a convolution, five stages of three (the first with stride 2, the others residual), layer norm.

    Images [image, height, width, channel] become features [image, d]: 64 of images of up to 32x32. Group
    normalization replaces the batch normalization of the released code, which is ill-defined if examples
    arrive one by one.

    Raises ValueError if `filters` is not a multiple of `groups` and, at `init` and `apply`, for inputs that
    are no images.
    """
    if filters % groups:
        raise ValueError(f"residual_encoder: filters={filters}, groups={groups}; expected a multiple")

    def side(size: int) -> int:
        for _ in range(_STAGES):
            size = layer_side(size, stride=2)
        return size

    return on_images("residual_encoder", from_linen(_ResidualEncoder(filters, groups)), side)
