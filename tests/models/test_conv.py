"""Convolution and pooling against `lax.conv` and `reduce_window`, up to second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jmeta.models.conv import Conv, convolution_primitive, convolve, max_pool


def _normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def _three_orders(function, x, kernel):
    """The function's value, its gradient, and the gradient of a scalar of that gradient, in both
    arguments."""

    def scalar(x, kernel):
        return jnp.sin(function(x, kernel)).sum()

    def slope(x, kernel):
        return sum(jnp.square(g).sum() for g in jax.grad(scalar, (0, 1))(x, kernel))

    return function(x, kernel), jax.grad(scalar, (0, 1))(x, kernel), jax.grad(slope, (0, 1))(x, kernel)


@pytest.mark.parametrize(("height", "width", "size"), [(6, 6, 3), (7, 5, 3), (1, 3, 3), (1, 1, 3), (5, 4, 1)])
def test_matmul_convolution_equals_lax_to_the_second_derivative(height, width, size):
    x, kernel = _normal(0, 2, height, width, 3), _normal(1, size, size, 3, 4)
    orders = [
        jax.jit(lambda x, k, p=p: _three_orders(lambda x, k: convolve(x, k, primitive=p), x, k))(x, kernel)
        for p in ("matmul", "lax")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), *orders)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("height", "width", "size"), [(8, 7, 3), (5, 6, 1), (9, 9, 3)])
def test_strided_convolution_is_every_second_pixel(height, width, size, padded):
    x, kernel = _normal(0, 2, height, width, 3), _normal(1, size, size, 3, 4)
    for primitive in ("matmul", "lax"):
        whole = convolve(x, kernel, primitive=primitive, padded=padded)
        strided = convolve(x, kernel, primitive=primitive, padded=padded, stride=2)
        np.testing.assert_allclose(strided, whole[:, ::2, ::2], atol=1e-12)


def test_per_task_weights_are_a_plain_vmap():
    x, kernels = _normal(0, 3, 2, 5, 5, 2), _normal(1, 3, 3, 3, 2, 4)
    both = [jax.vmap(lambda x, k, p=p: convolve(x, k, primitive=p))(x, kernels) for p in ("matmul", "lax")]
    np.testing.assert_allclose(*both, atol=1e-12)


@pytest.mark.parametrize("size", [28, 14, 7, 3, 84, 42, 21, 10, 5])
def test_pooling_equals_flax(size):
    x = _normal(size, 2, size, size, 3)
    np.testing.assert_array_equal(max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))


def test_pooling_differentiates_like_flax_twice():
    x = _normal(0, 2, 7, 6, 3)
    orders = [
        _three_orders(lambda x, k, pool=pool: pool(x) * k, x, _normal(1))
        for pool in (max_pool, lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), *orders)


def test_tied_maxima_pass_on_the_whole_gradient():
    slope = jax.grad(lambda x: max_pool(x).sum())(jnp.zeros((1, 4, 5, 2)))
    windows = slope[:, :, :4].reshape(1, 2, 2, 2, 2, 2).sum((2, 4))
    np.testing.assert_allclose(windows, 1)
    np.testing.assert_array_equal(slope[:, :, 4], 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layers_keep_the_input_type(dtype):
    x = jnp.ones((1, 4, 4, 2), dtype)
    variables = Conv(3).init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(dtype)}
    assert max_pool(Conv(3).apply(variables, x)).dtype == dtype


def test_conv_parameters():
    x = jnp.ones((1, 4, 4, 2))
    shapes = jax.tree.map(jnp.shape, Conv(3).init(jax.random.key(0), x)["params"])
    assert shapes == {"kernel": (3, 3, 2, 3), "bias": (3,)}
    assert "bias" not in Conv(3, size=1, bias=False).init(jax.random.key(0), x)["params"]


def test_a_cpu_never_takes_grouped_convolutions():
    assert convolution_primitive("shared", "cpu") == convolution_primitive("per_task", "cpu") == "matmul"
    assert convolution_primitive("shared", "gpu") == "lax"
