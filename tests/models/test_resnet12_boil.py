"""BOIL's ResNet-12: its size, and its outputs against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers_in_numpy import convolve, max_pool, normalize, random_variables

from jmeta.models.resnet12_boil import resnet12_boil


@pytest.mark.parametrize(
    ("widths", "count"), [((64, 128, 256, 512), 7_999_365), ((64, 160, 320, 640), 12_427_525)]
)
def test_size(widths, count):
    model = resnet12_boil(widths=widths, head=5)
    x = jax.ShapeDtypeStruct((2, 84, 84, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    outputs, _ = jax.eval_shape(lambda p, s, x: model.apply(p, s, x, train=True), params, state, x)
    assert outputs.shape == (2, 5)
    assert params["head"]["kernel"].shape == (widths[-1], 5)


def leaky(values):
    return np.where(values > 0, values, 0.01 * values)


@pytest.mark.parametrize("size", [8, 12])  # the third block pools 2x2 or 3x3, with a margin
def test_outputs(size):
    model = resnet12_boil(widths=(2, 3, 2, 3), head=2)
    x = np.random.default_rng(1).normal(size=(3, size, size, 2))
    params, state = random_variables(model, x)
    ours, _ = jax.jit(lambda params: model.apply(params, state, jnp.asarray(x), train=True))(params)
    for block in range(4):
        y = x
        for layer in range(3):
            y = convolve(y, params[f"conv_{block}_{layer}"]["kernel"])
            y = normalize(y, params[f"norm_{block}_{layer}"])
            y = leaky(y) if layer < 2 else y
        shortcut = x @ params[f"shortcut_{block}"]["kernel"][0, 0]
        x = leaky(y + normalize(shortcut, params[f"shortcut_norm_{block}"]))
        if block == 2:
            rim = 1 - x.shape[1] % 2  # the margin that no window reaches is left out
            x = np.pad(x, [(0, 0), (1, rim), (1, rim), (0, 0)], constant_values=-np.inf)
        x = max_pool(x) if block < 3 else x
    assert x.shape[1] == 2
    expected = x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)
