"""VGG-11 for small images, plain or of ConvLSTM cells (CL-VGG-11).

Simonyan & Zisserman, ICLR 2015; Babu, Savarese & Maire, NeurIPS 2021, section 4.5.

Kernels and classifier have the parameter counts of Babu et al., Table 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from flax import linen as nn

from jmeta.models.conv import Conv, max_pool
from jmeta.models.conv_lstm import ConvLSTM
from jmeta.models.inputs import on_images
from jmeta.models.norm import BatchNorm
from jmeta.models.wrap import from_linen
from jmeta.types import Array, Model

VGG11_WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
_POOLED = (True, True, False, True, False, True, False, True)


class _VGG11(nn.Module):
    widths: tuple[int, ...]
    recurrent: bool
    head: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        for layer, (width, pooled) in enumerate(zip(self.widths, _POOLED)):
            if self.recurrent:
                x = ConvLSTM(width, name=f"cell_{layer}")(x)
            else:
                x = Conv(width, bias=False, initialize="he_normal", name=f"conv_{layer}")(x)
            x = BatchNorm(name=f"norm_{layer}")(x, train=train, mask=mask)
            x = x if self.recurrent else nn.relu(x)
            x = max_pool(x) if pooled else x
        return nn.Dense(self.head, dtype=x.dtype, name="head")(x.reshape(x.shape[0], -1))


def vgg11(*, widths: Sequence[int] = VGG11_WIDTHS, recurrent: bool = False, head: int = 10) -> Model:
    """Build eight convolutions with batch normalization and ReLU, five max poolings and a linear classifier.

    Images [image, height, width, channel] become logits [image, head]. Convolutions are 3x3 without bias,
    pooling is 2x2. `recurrent` puts a ConvLSTM cell in place of each convolution, normalized and without
    ReLU.

    Raises ValueError unless there are eight widths; at `init` and `apply`, for inputs that are no images, and
    for images smaller than 32x32.
    """
    if len(widths) != len(VGG11_WIDTHS):
        raise ValueError(f"vgg11: {len(widths)} widths; expected {len(VGG11_WIDTHS)}")
    network = from_linen(_VGG11(tuple(widths), recurrent, head))
    return on_images("vgg11", network, lambda size: size >> sum(_POOLED))
