"""VGG-11 for small images, plain or of ConvLSTM cells (CL-VGG-11).

Simonyan & Zisserman, ICLR 2015; Babu, Savarese & Maire, NeurIPS 2021, section 4.5.
"""

from __future__ import annotations

from collections.abc import Sequence

from flax import linen as nn

from jmeta.models.bridge import from_linen
from jmeta.models.conv_lstm import ConvLSTM
from jmeta.models.layers import BatchNorm, Conv, max_pool
from jmeta.types import Array, Model

WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
POOLED = (True, True, False, True, False, True, False, True)


class _VGG11(nn.Module):
    widths: tuple[int, ...]
    recurrent: bool
    head: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        for layer, (width, pooled) in enumerate(zip(self.widths, POOLED)):
            if self.recurrent:
                x = ConvLSTM(width, name=f"cell_{layer}")(x)
            else:
                x = Conv(width, bias=False, initialise="he_normal", name=f"conv_{layer}")(x)
            x = BatchNorm(name=f"norm_{layer}")(x, train=train, mask=mask)
            x = x if self.recurrent else nn.relu(x)
            x = max_pool(x) if pooled else x
        return nn.Dense(self.head, dtype=x.dtype, name="head")(x.reshape(x.shape[0], -1))


def vgg11(*, widths: Sequence[int] = WIDTHS, recurrent: bool = False, head: int = 10) -> Model:
    """Eight 3x3 convolutions with batch normalisation and ReLU, five 2x2 max poolings, a linear classifier.

    Images [image, height, width, channel] become logits [image, head]. `recurrent` puts a ConvLSTM cell in
    the place of each convolution, normalised and without ReLU. Convolutions have no bias.

    Raises ValueError where there are not eight widths.
    """
    if len(widths) != len(WIDTHS):
        raise ValueError(f"vgg11: {len(widths)} widths; expected {len(WIDTHS)}")
    return from_linen(_VGG11(tuple(widths), recurrent, head))
