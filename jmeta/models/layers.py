"""Convolution, pooling and batch normalisation; the one place that chooses their primitives.

Second-order meta-learning differentiates gradients of convolutions whose weights differ from task to task,
inside a loop. There `lax.conv` becomes a grouped convolution, which is slow on a CPU; as a product of shifted
copies of the input with the weights, its derivatives of every order are matrix products again.
`experiments/benchmarks/convolution.py` measures the choice.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmeta.types import Array

Weights = Literal["shared", "per_task"]
Primitive = Literal["matmul", "lax"]


def convolution_primitive(weights: Weights, backend: str | None = None) -> Primitive:
    """The primitive of a convolution on `backend` (default: the one in use) whose `weights` are shared
    between the tasks of a batch or differ (`"per_task"`)."""
    backend = backend or jax.default_backend()
    return "matmul" if backend == "cpu" else "lax"


def patches(x: Array) -> Array:
    """The 3x3 neighbourhoods of images [image, height, width, channel], zero outside:
    [image, height, width, 9 channel]."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


def convolve(x: Array, kernel: Array, *, primitive: Primitive) -> Array:
    """Images [image, height, width, in] convolved with a kernel [3, 3, in, out] or [1, 1, in, out], stride 1,
    zeros outside: [image, height, width, out]."""
    if primitive == "lax":
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    columns = x if kernel.shape[:2] == (1, 1) else patches(x)
    return columns @ kernel.reshape(-1, kernel.shape[-1])


def max_pool(x: Array) -> Array:
    """The maximum over 2x2 windows of images [image, height, width, channel] with stride 2; an odd last row
    or column is dropped. Where values tie the derivative is shared between them."""
    images, height, width, channels = x.shape
    height, width = height // 2, width // 2
    windows = x[:, : 2 * height, : 2 * width].reshape(images, height, 2, width, 2, channels)
    return windows.max((2, 4))


class Conv(nn.Module):
    """A convolution with stride 1 and zeros outside: `size` 3 or 1, `features` output channels."""

    features: int
    size: int = 3
    bias: bool = True
    weights: Weights = "shared"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Images [image, height, width, in] to [image, height, width, features]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, x.dtype)
        y = convolve(x, kernel, primitive=convolution_primitive(self.weights))
        if not self.bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), x.dtype)
        return y + jnp.broadcast_to(bias, y.shape)


def batch_norm(x: Array, *, train: bool, mask: Array | None = None, name: str | None = None) -> Any:
    """Batch normalisation with learned scale and offset, running averages with decay 0.9 (003 App. E.5);
    to be called inside a linen module's compact method. `mask` [image] keeps padding out of the
    statistics."""
    everywhere = None if mask is None else mask.astype(bool).reshape(-1, *[1] * (x.ndim - 1))
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=x.dtype, name=name)
    return norm(x, mask=everywhere)
