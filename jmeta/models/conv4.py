"""Conv-4, the four-layer convolutional network of few-shot learning (Vinyals et al. 2016; COMLN App. E.5)."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.bridge import from_linen
from jmeta.models.layers import (
    BatchNorm,
    Conv,
    Initialise,
    Weights,
    conv_norm_relu_pool,
    dense,
)
from jmeta.types import Array, Model


class _Conv4(nn.Module):
    filters: int
    weights: Weights
    normalise_features: bool
    head: int | None
    padded: bool
    initialise: Initialise

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        for layer in range(4):
            conv = Conv(
                self.filters,
                weights=self.weights,
                padded=self.padded,
                initialise=self.initialise,
                name=f"conv_{layer}",
            )
            norm = BatchNorm(name=f"norm_{layer}")
            x = conv_norm_relu_pool(conv, norm, x, train=train, mask=mask)
        x = x.reshape(x.shape[0], -1)
        if self.normalise_features:
            x = x / jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))
        if self.head is None:
            return x
        return dense(self.head, self.initialise, x, name="head")


def conv4(
    *,
    filters: int = 64,
    weights: Weights = "shared",
    normalise_features: bool = False,
    head: int | None = None,
    padded: bool = True,
    initialise: Initialise = "lecun_normal",
) -> Model:
    """Four blocks of 3x3 convolution with `filters` channels, batch normalisation, ReLU and 2x2 max pooling.

    Images [image, height, width, channel] become features [image, d], d = filters (height // 16) (width //
    16): 1,600 for 84x84 images and 64 filters. `normalise_features` divides them by sqrt(d) (an option of
    COMLN's code); `head` adds a linear classifier with that many outputs. `weights="per_task"` says that each
    task will have weights of its own, which chooses another primitive on some devices and changes no number.
    `padded=False` convolves without zeros outside (576 features of an 84x84 image; Huisman et al. 2022), and
    needs images of at least 46x46; `initialise`: see `kernel_initialiser`.
    """
    return from_linen(_Conv4(filters, weights, normalise_features, head, padded, initialise))
