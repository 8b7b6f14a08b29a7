"""The ResNet-12 of BOIL's released code (Oh et al., ICLR 2021), which sparse-MAML's Table 2 uses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.conv import Conv, WeightSharing, max_pool
from jmeta.models.inputs import on_images
from jmeta.models.mlp import dense
from jmeta.models.norm import BatchNorm
from jmeta.models.wrap import from_linen
from jmeta.types import Array, Model


class _ResNet12Boil(nn.Module):
    widths: tuple[int, ...]
    weights: WeightSharing
    head: int | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        conv = partial(Conv, bias=False, weights=self.weights, initialize="glorot_uniform")
        for block, width in enumerate(self.widths):
            y = x
            for layer in range(3):
                y = conv(width, name=f"conv_{block}_{layer}")(y)
                y = BatchNorm(name=f"norm_{block}_{layer}")(y, train=train, mask=mask)
                y = nn.leaky_relu(y) if layer < 2 else y
            shortcut = conv(width, 1, name=f"shortcut_{block}")(x)
            shortcut = BatchNorm(name=f"shortcut_norm_{block}")(shortcut, train=train, mask=mask)
            x = _pool(nn.leaky_relu(y + shortcut), block)
        x = x.mean((1, 2))  # [image, d]
        return x if self.head is None else dense(self.head, "glorot_uniform", x, name="head")


def _pool(x: Array, block: int) -> Array:
    """Pool the first two blocks, the third with a rim around it, and no other."""
    if block == 2:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return max_pool(x) if block < 3 else x


def resnet12_boil(
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    weights: WeightSharing = "shared",
    head: int | None = None,
) -> Model:
    """Build four residual blocks of three 3x3 convolutions, with 1x1 shortcuts, averaged over space.

    Images [image, height, width, channel] become features [image, widths[-1]]: 512. The first three blocks
    end with 2x2 max pooling, the third with a margin of 1, so that 84x84 images leave 11x11. Leaky ReLUs have
    a slope of 0.01; kernels start by Xavier's rule.

    Args:
      widths: channels of the blocks; (64, 160, 320, 640) is the code's larger network.
      weights: see `jmeta.conv4`.
      head: outputs of a linear classifier on the features; None for none.

    Raises:
      ValueError: at `init` and `apply`, for inputs that are no images, and for images smaller than 4x4 (with
        at least two blocks).
    """
    network = _ResNet12Boil(tuple(widths), weights, head)
    return on_images("resnet12_boil", from_linen(network), lambda size: size >> min(len(widths), 2))
