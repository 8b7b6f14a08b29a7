"""Convolution and pooling, and the choice of their primitives.

Second-order meta-learning differentiates gradients of convolutions whose weights differ from task to task,
inside a loop. There `lax.conv` becomes a grouped convolution, which is slow on a CPU; as a product of shifted
copies of the input with the weights, its derivatives of every order are matrix products again.
`experiments/benchmarks/convolution.py` measures the choice.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmeta.models.init import Initialization, bias_initializer, kernel_initializer
from jmeta.models.norm import BatchNorm, affine, moments
from jmeta.types import Array

WeightSharing = Literal["shared", "per_task"]
Primitive = Literal["matmul", "lax"]


def convolution_primitive(weights: WeightSharing, backend: str | None = None) -> Primitive:
    """Choose the primitive of a convolution on `backend` (if None, on the one in use).

    `weights`: "shared" between the tasks of a batch, or different for each ("per_task").
    """
    backend = backend or jax.default_backend()
    return "matmul" if backend == "cpu" else "lax"


def patches(x: Array, *, padded: bool = True, stride: int = 1) -> Array:
    """Gather the 3x3 neighborhoods of images [image, height, width, channel].

    Returns [image, height, width, 9 channel]. Pixels outside an image are zero if `padded`; otherwise only
    inner pixels have a neighborhood. A `stride` keeps every stride-th pixel, from the first on.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) if padded else x
    height, width = x.shape[1] - 2, x.shape[2] - 2
    # 9 of [image, height, width, channel], one for each shift
    shifted = [x[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


def convolve(x: Array, kernel: Array, *, primitive: Primitive, padded: bool = True, stride: int = 1) -> Array:
    """Convolve images [image, height, width, in] with a kernel [3, 3, in, out] or [1, 1, in, out].

    Returns [image, height, width, out]: smaller by the kernel's rim if not `padded` with zeros, and by the
    `stride`.
    """
    if primitive == "lax":
        rim = kernel.shape[0] // 2 if padded else 0
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), [(rim, rim)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    if kernel.shape[:2] == (1, 1):
        columns = x[:, ::stride, ::stride]  # [image, height, width, in]
    else:
        columns = patches(x, padded=padded, stride=stride)  # [image, height, width, 9 in]
    return columns @ kernel.reshape(-1, kernel.shape[-1])  # kernel [9 in, out] or [in, out]


def max_pool(x: Array) -> Array:
    """Take the maximum over 2x2 windows of images [image, height, width, channel] with stride 2.

    An odd last row or column is dropped. Tied values share the derivative.
    """
    images, height, width, channels = x.shape
    height, width = height // 2, width // 2
    # [image, height // 2, row of the window, width // 2, column of the window, channel]
    windows = x[:, : 2 * height, : 2 * width].reshape(images, height, 2, width, 2, channels)
    return windows.max((2, 4))


def convolve_in_windows(
    x: Array, kernel: Array, mask: Array | None, *, padded: bool = True
) -> tuple[Array, Array, Array]:
    """Convolve images with few channels, laid out for pooling, and compute the moments of the result.

    The moments come from those of the 9 in x 9 in neighborhoods, which is far cheaper than from the outputs,
    above all in the derivatives, and does not depend on the kernel. With the windows' places leading, pooling
    is elementwise; neighborhoods are columns, as the kernel's derivative reads them.

    Args:
      x: images [image, height, width, in].
      kernel: [3, 3, in, out].
      mask: [image], 0 for padded images, which do not enter the moments; None for none.
      padded: whether pixels outside an image are zeros.

    Returns:
      The convolution [place, image, height // 2, width // 2, out], with `place` one of the four of each 2x2
      window; and mean and variance [out] of the whole convolution.
    """
    columns = patches(x, padded=padded)  # [image, height, width, 9 in]
    flat = kernel.reshape(-1, kernel.shape[-1])  # [9 in, out]
    mean, _ = moments(columns, mask)  # [9 in]
    centered = columns - jnp.broadcast_to(mean, columns.shape)
    if mask is not None:
        centered = centered * mask.astype(x.dtype).reshape(-1, 1, 1, 1)  # mask [image, 1, 1, 1]
    rows = centered.reshape(-1, flat.shape[0])  # [image height width, 9 in]
    images = jnp.asarray(x.shape[0], x.dtype) if mask is None else mask.astype(x.dtype).sum()
    covariance = rows.T @ rows / (images * (columns.shape[1] * columns.shape[2]))  # [9 in, 9 in]

    count, height, width = x.shape[0], columns.shape[1] // 2, columns.shape[2] // 2
    # [image, height // 2, row of the window, width // 2, column of the window, 9 in]
    windows = columns[:, : 2 * height, : 2 * width].reshape(count, height, 2, width, 2, -1)
    # [9 in, row, column, image, height // 2, width // 2], then [9 in, place image (height // 2) (width // 2)]
    places = windows.transpose(5, 2, 4, 0, 1, 3).reshape(flat.shape[0], -1)
    # [place, image, height // 2, width // 2, out]
    y = jnp.tensordot(places, flat, (0, 0)).reshape(4, count, height, width, -1)
    return y, mean @ flat, ((covariance @ flat) * flat).sum(0)


class Conv(nn.Module):
    """A convolution with `features` output channels: `size` 3 or 1, zeros outside the image if `padded`."""

    features: int
    size: int = 3
    bias: bool = True
    weights: WeightSharing = "shared"
    padded: bool = True
    initialize: Initialization = "lecun_normal"
    stride: int = 1

    @nn.compact
    def parameters(self, x: Array) -> tuple[Array, Array | None]:
        """Return the kernel [size, size, in, features] for images `x` and the bias [features]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_initializer(self.initialize), shape, x.dtype)
        if not self.bias:
            return kernel, None
        start = bias_initializer(self.initialize, kernel.size // self.features)
        bias = self.param("bias", start, (self.features,), x.dtype)
        return kernel, bias

    def __call__(self, x: Array) -> Array:
        """Convolve images [image, height, width, in] to [image, height, width, features]."""
        kernel, bias = self.parameters(x)
        primitive = convolution_primitive(self.weights)
        y = convolve(x, kernel, primitive=primitive, padded=self.padded, stride=self.stride)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def conv_norm_relu_pool(
    conv: Conv, norm: BatchNorm, x: Array, *, train: bool, mask: Array | None = None
) -> Array:
    """Compute `max_pool(relu(norm(conv(x))))` inside a linen module's compact method.

    Normalization and ReLU are monotone in each channel, so they come after pooling, on a quarter of the
    values (channels that a negative scale reverses are pooled by their minimum). The convolution's bias moves
    the statistics alone, and those of few input channels come from the input.
    """
    kernel, bias = conv.parameters(x)
    primitive = convolution_primitive(conv.weights)
    in_windows = primitive == "matmul" and conv.stride == 1 and 9 * kernel.shape[2] < kernel.shape[3]
    if in_windows:
        y, mean, variance = convolve_in_windows(x, kernel, mask, padded=conv.padded)
    else:
        y = convolve(x, kernel, primitive=primitive, padded=conv.padded, stride=conv.stride)
        mean, variance = moments(y, mask)
    shift = jnp.zeros_like(mean) if bias is None else bias
    center, slope, offset = norm.terms(mean + shift, variance, train=train)
    sign = jnp.where(slope < 0, -1, 1).astype(y.dtype)  # [out]
    y = y * jnp.broadcast_to(sign, y.shape)
    # [image, height // 2, width // 2, out], over the four leading places or over windows
    highest = functools.reduce(jnp.maximum, y) if in_windows else max_pool(y)
    return nn.relu(affine(highest, sign * (center - shift), sign * slope, offset))
