"""ResNet-12 (Lee et al. 2019; COMLN App. E.5)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.conv import Conv, WeightSharing, max_pool
from jmeta.models.inputs import on_images
from jmeta.models.norm import BatchNorm
from jmeta.models.wrap import from_linen
from jmeta.types import Array, Key, Model

_DROP_SIZE = 5


def drop_block(x: Array, rate: float, key: Key) -> Array:
    """Set squares of 5x5 to zero in each channel of images (DropBlock, Ghiasi et al. 2018).

    Images are [image, height, width, channel]. About the share `rate` of the values is dropped, and the rest
    scaled up to keep the expectation of the sum. Squares are no larger than the image.
    """
    height, width = x.shape[1:3]
    size = min(_DROP_SIZE, height, width)
    places = (height - size + 1) * (width - size + 1)
    seeds_rate = rate * height * width / (size**2 * places)
    seeds = jax.random.bernoulli(
        key, seeds_rate, (x.shape[0], height - size + 1, width - size + 1, x.shape[3])
    )
    margins = ((0, 0), (size - 1, size - 1), (size - 1, size - 1), (0, 0))
    # [image, height, width, channel]: True in every square that a seed is the corner of
    dropped = jax.lax.reduce_window(
        jnp.pad(seeds, margins), False, jax.lax.bitwise_or, (1, size, size, 1), (1, 1, 1, 1), "VALID"
    )
    keep = (~dropped).astype(x.dtype)
    return x * keep / jnp.maximum(keep.mean(), jnp.finfo(x.dtype).tiny)


class _ResNet12(nn.Module):
    widths: tuple[int, ...]
    weights: WeightSharing
    global_pool: bool
    drop: float
    normalize_features: bool
    head: int | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        activation = partial(nn.leaky_relu, negative_slope=0.1)
        for block, width in enumerate(self.widths):
            y = x
            for layer in range(3):
                y = Conv(width, bias=False, weights=self.weights, name=f"conv_{block}_{layer}")(y)
                y = BatchNorm(name=f"norm_{block}_{layer}")(y, train=train, mask=mask)
                y = activation(y) if layer < 2 else y
            shortcut = Conv(width, 1, bias=False, weights=self.weights, name=f"shortcut_{block}")(x)
            shortcut = BatchNorm(name=f"shortcut_norm_{block}")(shortcut, train=train, mask=mask)
            x = max_pool(activation(y + shortcut))
            if self.drop and self.has_rng("dropout"):
                x = drop_block(x, self.drop, self.make_rng("dropout"))
        # [image, d]
        x = x.mean((1, 2)) if self.global_pool else x.reshape(x.shape[0], -1)
        if self.normalize_features:
            x = x / jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))
        return x if self.head is None else nn.Dense(self.head, dtype=x.dtype, name="head")(x)


def resnet12(
    *,
    widths: Sequence[int] = (64, 160, 320, 640),
    weights: WeightSharing = "shared",
    global_pool: bool = False,
    drop_block: float = 0.0,
    normalize_features: bool = False,
    head: int | None = None,
) -> Model:
    """Build four residual blocks of three 3x3 convolutions, with 1x1 shortcuts and 2x2 max pooling.

    Images [image, height, width, channel] become features [image, d]: for 84x84 images d = 5 x 5 x 640 =
    16,000 as in COMLN, or 640 with `global_pool` (the released jax-meta network).

    Args:
      widths: channels of the blocks.
      weights: see `jmeta.conv4`.
      global_pool: average the last block's outputs over space.
      drop_block: share of values dropped after each block if the model has a key (Lee et al. 2019 use 0.1 in
        the last two blocks).
      normalize_features: divide the features by sqrt(d).
      head: outputs of a linear classifier on the features; None for none.

    Raises:
      ValueError: for a `drop_block` outside [0, 1); at `init` and `apply`, for inputs that are no images, and
        for images smaller than 16x16 (with four blocks).
    """
    if not 0 <= drop_block < 1:
        raise ValueError(f"resnet12: drop_block is {drop_block}; expected a share in [0, 1)")
    network = _ResNet12(tuple(widths), weights, global_pool, drop_block, normalize_features, head)
    return on_images("resnet12", from_linen(network), lambda size: size >> len(widths))
