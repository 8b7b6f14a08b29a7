"""Convolution, pooling and batch normalisation; the one place that chooses their primitives.

Second-order meta-learning differentiates gradients of convolutions whose weights differ from task to task,
inside a loop. There `lax.conv` becomes a grouped convolution, which is slow on a CPU; as a product of shifted
copies of the input with the weights, its derivatives of every order are matrix products again.
`experiments/benchmarks/convolution.py` measures the choice.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmeta.types import Array

Weights = Literal["shared", "per_task"]
Primitive = Literal["matmul", "lax"]
Initialise = Literal["lecun_normal", "uniform", "he_normal", "glorot_uniform", "pytorch"]

DECAY = 0.9  # of the running averages (COMLN App. E.5)
EPSILON = 1e-5


def kernel_initialiser(name: Initialise) -> nn.initializers.Initializer:
    """Where kernels start: "lecun_normal" (flax), "uniform" within 1/sqrt(fan in), "he_normal" of deviation
    sqrt(2 / fan in), "glorot_uniform" (Xavier), or "pytorch", which is "uniform" for kernels and biases.

    Raises ValueError for another name.
    """
    if name == "lecun_normal":
        return nn.initializers.lecun_normal()
    if name in ("uniform", "pytorch"):
        return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    if name == "he_normal":
        return nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    if name == "glorot_uniform":
        return nn.initializers.glorot_uniform()
    choices = ", ".join(map(repr, get_args(Initialise)))
    raise ValueError(f"initialise is {name!r}; choose one of {choices}")


def bias_initialiser(name: Initialise, fan_in: int) -> nn.initializers.Initializer:
    """Where biases start: at zero, but for "pytorch" uniform within 1/sqrt(`fan_in`)."""
    if name != "pytorch":
        return nn.initializers.zeros
    bound = fan_in**-0.5

    def uniform(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return uniform


def convolution_primitive(weights: Weights, backend: str | None = None) -> Primitive:
    """The primitive of a convolution on `backend` (the one in use if None) whose `weights` are shared between
    the tasks of a batch or differ ("per_task")."""
    backend = backend or jax.default_backend()
    return "matmul" if backend == "cpu" else "lax"


def patches(x: Array, *, padded: bool = True, stride: int = 1) -> Array:
    """The 3x3 neighbourhoods of images [image, height, width, channel], [image, height, width, 9 channel].

    Outside an image is zero; where it is not `padded` there are neighbourhoods of inner pixels only. With a
    `stride` they are those of every stride-th pixel, from the first on.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) if padded else x
    height, width = x.shape[1] - 2, x.shape[2] - 2
    shifted = [x[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


def convolve(x: Array, kernel: Array, *, primitive: Primitive, padded: bool = True, stride: int = 1) -> Array:
    """Images [image, height, width, in] convolved with a kernel [3, 3, in, out] or [1, 1, in, out]:
    [image, height, width, out]; zeros outside, or smaller by the kernel's rim where not `padded`, and by the
    `stride`."""
    if primitive == "lax":
        rim = kernel.shape[0] // 2 if padded else 0
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), [(rim, rim)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    if kernel.shape[:2] == (1, 1):
        columns = x[:, ::stride, ::stride]
    else:
        columns = patches(x, padded=padded, stride=stride)
    return columns @ kernel.reshape(-1, kernel.shape[-1])


def max_pool(x: Array) -> Array:
    """The maximum over 2x2 windows of images [image, height, width, channel] with stride 2; an odd last row
    or column is dropped. Where values tie the derivative is shared between them."""
    images, height, width, channels = x.shape
    height, width = height // 2, width // 2
    windows = x[:, : 2 * height, : 2 * width].reshape(images, height, 2, width, 2, channels)
    return windows.max((2, 4))


def moments(x: Array, mask: Array | None) -> tuple[Array, Array]:
    """Mean and variance [channel] of images [image, ..., channel], over those whose `mask` [image] is 1."""
    axes = tuple(range(x.ndim - 1))
    where = None if mask is None else mask.astype(bool).reshape(-1, *[1] * (x.ndim - 1))
    mean = x.mean(axes, where=where)
    return mean, jnp.maximum(jnp.square(x).mean(axes, where=where) - jnp.square(mean), 0)


def convolve_in_windows(
    x: Array, kernel: Array, mask: Array | None, *, padded: bool = True
) -> tuple[Array, Array, Array]:
    """For images with few channels: the convolution as [place, image, height // 2, width // 2, out], where
    `place` counts the four of each 2x2 window; and the mean and variance [out] of the whole convolution.

    The moments come from those of the 9 in x 9 in neighbourhoods, which is far cheaper than from the outputs,
    above all in the derivatives, and does not depend on the kernel. With the windows' places leading, pooling
    is elementwise; neighbourhoods are columns, as the kernel's derivative reads them.
    """
    columns, flat = patches(x, padded=padded), kernel.reshape(-1, kernel.shape[-1])
    mean, _ = moments(columns, mask)
    centred = columns - jnp.broadcast_to(mean, columns.shape)
    if mask is not None:
        centred = centred * mask.astype(x.dtype).reshape(-1, 1, 1, 1)
    rows = centred.reshape(-1, flat.shape[0])
    images = jnp.asarray(x.shape[0], x.dtype) if mask is None else mask.astype(x.dtype).sum()
    covariance = rows.T @ rows / (images * (columns.shape[1] * columns.shape[2]))

    count, height, width = x.shape[0], columns.shape[1] // 2, columns.shape[2] // 2
    windows = columns[:, : 2 * height, : 2 * width].reshape(count, height, 2, width, 2, -1)
    places = windows.transpose(5, 2, 4, 0, 1, 3).reshape(flat.shape[0], -1)
    y = jnp.tensordot(places, flat, (0, 0)).reshape(4, count, height, width, -1)
    return y, mean @ flat, ((covariance @ flat) * flat).sum(0)


class Conv(nn.Module):
    """A convolution: `size` 3 or 1, `features` output channels, zeros outside if `padded`."""

    features: int
    size: int = 3
    bias: bool = True
    weights: Weights = "shared"
    padded: bool = True
    initialise: Initialise = "lecun_normal"
    stride: int = 1

    @nn.compact
    def parameters(self, x: Array) -> tuple[Array, Array | None]:
        """The kernel [size, size, in, features] for images `x` and the bias [features]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_initialiser(self.initialise), shape, x.dtype)
        if not self.bias:
            return kernel, None
        start = bias_initialiser(self.initialise, kernel.size // self.features)
        bias = self.param("bias", start, (self.features,), x.dtype)
        return kernel, bias

    def __call__(self, x: Array) -> Array:
        """Images [image, height, width, in] to [image, height, width, features]."""
        kernel, bias = self.parameters(x)
        primitive = convolution_primitive(self.weights)
        y = convolve(x, kernel, primitive=primitive, padded=self.padded, stride=self.stride)
        return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def dense(width: int, initialise: Initialise, x: Array, *, name: str) -> Array:
    """A linear layer of `width` units on `x` [..., input], inside a linen module's compact method."""
    kernel_init = kernel_initialiser(initialise)
    bias_init = bias_initialiser(initialise, x.shape[-1])
    return nn.Dense(width, dtype=x.dtype, kernel_init=kernel_init, bias_init=bias_init, name=name)(x)


class BatchNorm(nn.Module):
    """Batch normalisation with learned scale and offset; the variables are those of flax's `nn.BatchNorm`."""

    @nn.compact
    def terms(self, mean: Array, variance: Array, *, train: bool) -> tuple[Array, Array, Array]:
        """What normalises, (x - centre) slope + offset, each [channel], from the batch's `mean` and
        `variance` [channel]; in training these update the running averages, else the running averages are
        used."""
        shape, dtype = mean.shape, mean.dtype
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        offset = self.param("bias", nn.initializers.zeros, shape, dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        if not train:
            mean, variance = running_mean.value, running_variance.value
        elif not self.is_initializing():
            running_mean.value = DECAY * running_mean.value + (1 - DECAY) * mean
            running_variance.value = DECAY * running_variance.value + (1 - DECAY) * variance
        return mean, scale * lax.rsqrt(variance + EPSILON), offset

    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        """Images [image, ..., channel], normalised; `mask` [image] keeps padding out of the statistics."""
        return _affine(x, *self.terms(*moments(x, mask), train=train))


def _affine(x: Array, centre: Array, slope: Array, offset: Array) -> Array:
    centre, slope, offset = (jnp.broadcast_to(term, x.shape) for term in (centre, slope, offset))
    return (x - centre) * slope + offset


def conv_norm_relu_pool(
    conv: Conv, norm: BatchNorm, x: Array, *, train: bool, mask: Array | None = None
) -> Array:
    """`max_pool(relu(norm(conv(x))))`, to be called inside a linen module's compact method.

    Normalisation and ReLU are monotone in each channel, so they come after pooling, on a quarter of the
    values (what a negative scale makes decrease is pooled by its minimum). The convolution's bias moves the
    statistics alone, and those of few input channels come from the input.
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
    centre, slope, offset = norm.terms(mean + shift, variance, train=train)
    sign = jnp.where(slope < 0, -1, 1).astype(y.dtype)
    y = y * jnp.broadcast_to(sign, y.shape)
    highest = functools.reduce(jnp.maximum, y) if in_windows else max_pool(y)
    return nn.relu(_affine(highest, sign * (centre - shift), sign * slope, offset))
