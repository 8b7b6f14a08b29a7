"""ResNet-20 for small images, plain or of ConvLSTM cells (CL-ResNet-20).

He et al., CVPR 2016, section 4.2; Babu, Savarese & Maire, NeurIPS 2021, section 4.5.

Kernels and classifier have the parameter counts of Babu et al., Table 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.conv import Conv
from jmeta.models.conv_lstm import ConvLSTM
from jmeta.models.inputs import on_images
from jmeta.models.norm import BatchNorm
from jmeta.models.wrap import from_linen
from jmeta.types import Array, Model

RESNET20_WIDTHS = (16, 32, 64)
_BLOCKS = 3  # of each stage, two layers each


class _ResNet20(nn.Module):
    widths: tuple[int, ...]
    recurrent: bool
    head: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        def layer(x: Array, width: int, stride: int, name: str) -> Array:
            if self.recurrent:
                x = ConvLSTM(width, stride, name=f"cell_{name}")(x)
            else:
                conv = Conv(width, bias=False, initialize="he_normal", stride=stride, name=f"conv_{name}")
                x = conv(x)
            return BatchNorm(name=f"norm_{name}")(x, train=train, mask=mask)

        def activation(x: Array) -> Array:
            return x if self.recurrent else nn.relu(x)  # a cell is not linear by itself

        x = activation(layer(x, self.widths[0], 1, "first"))
        for stage, width in enumerate(self.widths):
            for block in range(_BLOCKS):
                stride = 2 if stage and not block else 1
                y = activation(layer(x, width, stride, f"{stage}_{block}_0"))
                y = layer(y, width, 1, f"{stage}_{block}_1")
                x = activation(_shortcut(x, width, stride) + y)
        return nn.Dense(self.head, dtype=x.dtype, name="head")(x.mean((1, 2)))


def _shortcut(x: Array, width: int, stride: int) -> Array:
    """Take every stride-th pixel, with zeros in the new channels (He et al., option A)."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))


def resnet20(*, widths: Sequence[int] = RESNET20_WIDTHS, recurrent: bool = False, head: int = 10) -> Model:
    """Build a convolution, three stages of three residual blocks of two convolutions, and a classifier.

    Images [image, height, width, channel] become logits [image, head]. Convolutions are 3x3 without bias,
    each followed by batch normalization; the second and third stage begin with stride 2. `recurrent` puts a
    ConvLSTM cell in place of each convolution and leaves out the ReLUs.

    Raises ValueError unless there are three widths that do not shrink; at `init` and `apply`, for inputs that
    are no images.
    """
    if len(widths) != len(RESNET20_WIDTHS) or list(widths) != sorted(widths):
        raise ValueError(f"resnet20: widths={tuple(widths)}; expected three that do not shrink")
    # Of every image a pixel is left: each stride rounds up.
    return on_images("resnet20", from_linen(_ResNet20(tuple(widths), recurrent, head)), lambda size: size)
