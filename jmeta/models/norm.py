"""Batch normalization that leaves padding out of its statistics."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmeta.types import Array

_DECAY = 0.9  # of the running averages (COMLN App. E.5)
_EPSILON = 1e-5


def moments(x: Array, mask: Array | None) -> tuple[Array, Array]:
    """Compute mean and variance [channel] of images [image, ..., channel] whose `mask` [image] is 1."""
    axes = tuple(range(x.ndim - 1))
    where = None if mask is None else mask.astype(bool).reshape(-1, *[1] * (x.ndim - 1))  # [image, 1, ..., 1]
    mean = x.mean(axes, where=where)
    return mean, jnp.maximum(jnp.square(x).mean(axes, where=where) - jnp.square(mean), 0)


def affine(x: Array, center: Array, slope: Array, offset: Array) -> Array:
    """Compute (x - center) slope + offset for `x` [..., channel] and terms [channel]."""
    center, slope, offset = (jnp.broadcast_to(term, x.shape) for term in (center, slope, offset))
    return (x - center) * slope + offset


class BatchNorm(nn.Module):
    """Batch normalization with learned scale and offset, and the variables of flax's `nn.BatchNorm`."""

    @nn.compact
    def terms(self, mean: Array, variance: Array, *, train: bool) -> tuple[Array, Array, Array]:
        """Return the center, slope and offset [channel] of (x - center) slope + offset.

        In training they come from the batch's `mean` and `variance` [channel], which also update the running
        averages; otherwise they come from the running averages.
        """
        shape, dtype = mean.shape, mean.dtype
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        offset = self.param("bias", nn.initializers.zeros, shape, dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        if not train:
            mean, variance = running_mean.value, running_variance.value
        elif not self.is_initializing():
            running_mean.value = _DECAY * running_mean.value + (1 - _DECAY) * mean
            running_variance.value = _DECAY * running_variance.value + (1 - _DECAY) * variance
        return mean, scale * lax.rsqrt(variance + _EPSILON), offset

    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        """Normalize images [image, ..., channel]; `mask` [image] keeps padding out of the statistics."""
        return affine(x, *self.terms(*moments(x, mask), train=train))
