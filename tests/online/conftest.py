"""A small problem in float64 and a two-layer network that the loops of `reference` know too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta

SIZES = (6, 5, 3)  # inputs, hidden units, classes


def init(key, x):
    keys = jax.random.split(key, 4)
    shapes = {"W1": SIZES[:2], "b1": SIZES[1:2], "W2": SIZES[1:], "b2": SIZES[2:]}
    return {
        name: jax.random.normal(k, shape, jnp.float64) * 0.7 for k, (name, shape) in zip(keys, shapes.items())
    }


def apply(params, x):
    hidden = jax.nn.relu(x @ params["W1"] + params["b1"][None])
    return hidden @ params["W2"] + params["b2"][None]


@pytest.fixture(scope="session")
def model():
    return jmeta.from_pair(init, apply)


@pytest.fixture(scope="session")
def stream():
    """x [step, example, input] and y [step, example] of two tasks of three steps."""
    random = np.random.default_rng(0)
    return random.normal(size=(6, 4, SIZES[0])), random.integers(0, SIZES[2], (6, 4)).astype(np.int32)


@pytest.fixture(scope="session")
def as_numpy():
    def convert(params):
        return {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}

    return convert
