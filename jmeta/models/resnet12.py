"""ResNet-12 (Lee et al. 2019; COMLN App. E.5)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.bridge import from_linen
from jmeta.models.layers import BatchNorm, Conv, Weights, max_pool
from jmeta.types import Array, Key, Model

DROP_SIZE = 5


def drop_block(x: Array, rate: float, key: Key) -> Array:
    """Images [image, height, width, channel] with squares of 5x5 set to zero in each channel, so that about
    the share `rate` of the values is dropped, and the rest scaled up to keep the sum's expectation
    (DropBlock, Ghiasi et al. 2018). A square is cut off at the edge where the image is smaller."""
    height, width = x.shape[1:3]
    size = min(DROP_SIZE, height, width)
    places = (height - size + 1) * (width - size + 1)
    seeds_rate = rate * height * width / (size**2 * places)
    seeds = jax.random.bernoulli(
        key, seeds_rate, (x.shape[0], height - size + 1, width - size + 1, x.shape[3])
    )
    around = ((0, 0), (size - 1, size - 1), (size - 1, size - 1), (0, 0))
    dropped = jax.lax.reduce_window(
        jnp.pad(seeds, around), False, jax.lax.bitwise_or, (1, size, size, 1), (1, 1, 1, 1), "VALID"
    )
    kept = (~dropped).astype(x.dtype)
    return x * kept / jnp.maximum(kept.mean(), jnp.finfo(x.dtype).tiny)


class _ResNet12(nn.Module):
    widths: tuple[int, ...]
    weights: Weights
    global_pool: bool
    drop: float
    normalise_features: bool
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
        x = x.mean((1, 2)) if self.global_pool else x.reshape(x.shape[0], -1)
        if self.normalise_features:
            x = x / jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))
        return x if self.head is None else nn.Dense(self.head, dtype=x.dtype, name="head")(x)


def resnet12(
    *,
    widths: Sequence[int] = (64, 160, 320, 640),
    weights: Weights = "shared",
    global_pool: bool = False,
    drop_block: float = 0.0,
    normalise_features: bool = False,
    head: int | None = None,
) -> Model:
    """Four residual blocks of three 3x3 convolutions, with a 1x1 convolution as shortcut and 2x2 max pooling.

    Images [image, height, width, channel] become features [image, d]: for 84x84 images d = 5 x 5 x 640 =
    16,000 as in COMLN, or 640 with `global_pool` (the released jax-meta network).
    `drop_block` is the share of
    values dropped after each block where the model is given a key (Lee et al. 2019 use 0.1 in the last two
    blocks); `normalise_features` divides the features by sqrt(d); `head` adds a linear classifier with that
    many outputs; `weights`: see `conv4`.
    """
    if not 0 <= drop_block < 1:
        raise ValueError(f"resnet12: drop_block is {drop_block}; expected a share in [0, 1)")
    return from_linen(_ResNet12(tuple(widths), weights, global_pool, drop_block, normalise_features, head))
