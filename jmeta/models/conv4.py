"""Conv-4, the four-layer convolutional network of few-shot learning (Vinyals et al. 2016; COMLN App. E.5).

Biases of the convolutions start at 0; batch normalization makes them idle. (In Huisman et al.'s code they are
uniform in +-1/sqrt(fan in).)
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.conv import Conv, WeightSharing, conv_norm_relu_pool
from jmeta.models.init import Initialization
from jmeta.models.inputs import layer_side, on_images
from jmeta.models.mlp import dense
from jmeta.models.norm import BatchNorm
from jmeta.models.wrap import from_linen
from jmeta.types import Array, Model


class _Conv4(nn.Module):
    filters: int
    weights: WeightSharing
    normalize_features: bool
    head: int | None
    padded: bool
    pool: bool
    initialize: Initialization

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        for layer in range(4):
            conv = Conv(
                self.filters,
                weights=self.weights,
                padded=self.padded,
                initialize=self.initialize,
                stride=1 if self.pool else 2,
                name=f"conv_{layer}",
            )
            norm = BatchNorm(name=f"norm_{layer}")
            if self.pool:
                x = conv_norm_relu_pool(conv, norm, x, train=train, mask=mask)
            else:
                x = nn.relu(norm(conv(x), train=train, mask=mask))
        # [image, d]
        x = x.reshape(x.shape[0], -1) if self.pool else x.mean((1, 2))
        if self.normalize_features:
            x = x / jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))
        if self.head is None:
            return x
        return dense(self.head, self.initialize, x, name="head")


def conv4(
    *,
    filters: int = 64,
    weights: WeightSharing = "shared",
    normalize_features: bool = False,
    head: int | None = None,
    padded: bool = True,
    pool: bool = True,
    initialize: Initialization = "lecun_normal",
) -> Model:
    """Build four blocks of 3x3 convolution, batch normalization, ReLU and 2x2 max pooling.

    Images [image, height, width, channel] become features [image, d], d = filters (height // 16) (width //
    16): 1,600 for 84x84 images and 64 filters; without pooling d = filters.

    Args:
      filters: channels of each convolution.
      weights: "per_task" if each task has weights of its own, which selects another primitive on some devices
        and changes no number.
      normalize_features: divide the features by sqrt(d) (an option of COMLN's code).
      head: outputs of a linear classifier on the features; None for none.
      padded: surround images with zeros; otherwise those of 84x84 have 576 features (Huisman et al. 2022).
      pool: pool each layer; otherwise the convolutions have stride 2 and the features are averaged over
        space, as in Finn et al.'s network for Omniglot (2017).
      initialize: see `jmeta.models.init.kernel_initializer`.

    Raises:
      ValueError: at `init` and `apply`, for inputs that are no images, and for images smaller than 16x16 with
        pooling, 46x46 without padding.
    """

    def side(size: int) -> int:
        for _ in range(4):
            size = layer_side(size, padded=padded, stride=1 if pool else 2, pool=pool)
        return size

    network = _Conv4(filters, weights, normalize_features, head, padded, pool, initialize)
    return on_images("conv4", from_linen(network), side)
