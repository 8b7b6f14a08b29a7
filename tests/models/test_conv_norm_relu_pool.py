"""The fused block of convolution, normalization, ReLU and pooling, against each in turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jmeta.models.conv import Conv, conv_norm_relu_pool
from jmeta.models.norm import BatchNorm


class Block(nn.Module):
    filters: int
    padded: bool

    @nn.compact
    def __call__(self, x, *, train, mask):
        conv = Conv(self.filters, padded=self.padded, name="conv")
        return conv_norm_relu_pool(conv, BatchNorm(name="norm"), x, train=train, mask=mask)


def in_turn(params, x, padded, mask):
    """Outputs, and mean and variance of the convolution, by `lax.conv` and `reduce_window`."""
    y = jax.lax.conv_general_dilated(
        x, params["conv"]["kernel"], (1, 1), "SAME" if padded else "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ) + params["conv"]["bias"][None, None, None]  # fmt: skip
    real = y[mask > 0]
    mean, variance = real.mean((0, 1, 2)), real.var((0, 1, 2))
    normalized = (y - mean[None, None, None]) / jnp.sqrt(variance + 1e-5)[None, None, None]
    scaled = normalized * params["norm"]["scale"][None, None, None] + params["norm"]["bias"][None, None, None]
    return nn.max_pool(nn.relu(scaled), (2, 2), (2, 2)), mean, variance


@pytest.mark.parametrize(
    ("channels", "filters", "padded"), [(2, 4, True), (1, 12, True), (1, 12, False)],
    ids=["many_channels", "few_channels", "few_channels_without_a_rim"],
)  # fmt: skip
def test_a_negative_scale_pools_by_the_minimum(channels, filters, padded):
    """Values, running averages and gradients, on images of odd size, one of which is padding."""
    random = np.random.default_rng(0)
    x, mask = random.normal(size=(3, 7, 9, channels)), np.array([1.0, 0.0, 1.0])
    scale, shifts = np.linspace(-2, 2, filters), random.normal(size=(2, filters))
    conv = {"kernel": random.normal(size=(3, 3, channels, filters)), "bias": shifts[0]}
    params = {"conv": conv, "norm": {"scale": scale, "bias": shifts[1]}}
    statistics = {"norm": {"mean": np.zeros(filters), "var": np.ones(filters)}}

    def ours(params, x):
        variables = {"params": params, "batch_stats": statistics}
        outputs, updated = Block(filters, padded).apply(
            variables, x, train=True, mask=mask, mutable=["batch_stats"]
        )
        averages = updated["batch_stats"]["norm"]
        # running averages begin at 0 and 1 and keep nine tenths
        return outputs, averages["mean"] / 0.1, (averages["var"] - 0.9) / 0.1

    def value_and_grad(function):
        weights = np.random.default_rng(1).normal(size=(3, 7, 9, filters))

        def scalar(params, x):
            outputs, *statistics = function(params, x)
            _, height, width, _ = outputs.shape
            return (weights[:, :height, :width] * outputs).sum(), (outputs, *statistics)

        return jax.jit(jax.value_and_grad(scalar, (0, 1), has_aux=True))(params, x)

    expected = value_and_grad(lambda params, x: in_turn(params, x, padded, mask))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), value_and_grad(ours), expected
    )
