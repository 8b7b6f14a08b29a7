"""Layers in NumPy, and random parameters of a model, which cost no compilation."""

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(model, x):
    """Parameters of a model from N(0, 0.5), its scales about 1, and a state of zeros, in float64."""
    random = np.random.default_rng(0)
    params, state = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.asarray(x)))

    def draw(path, leaf):
        return random.normal(float("scale" in jax.tree_util.keystr(path)), 0.5, leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, params), jax.tree.map(lambda s: np.zeros(s.shape), state)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def relu(values):
    return np.maximum(values, 0)


def convolve(x, kernel):
    """Images [image, height, width, in], surrounded by zeros, and a kernel [3, 3, in, out]."""
    height, width = x.shape[1:3]
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


def convolve_from_rest(x, cell):
    """The first step of a ConvLSTM, whose forget gate acts on nothing."""
    accept, _, candidate, emit = np.split(convolve(x, cell.inputs) + cell.bias, 4, axis=-1)
    return sigmoid(emit) * np.tanh(sigmoid(accept) * np.tanh(candidate))


def normalize(x, norm):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * norm["scale"] + norm["bias"]


def max_pool(x):
    """Pool over 2x2 windows of images of even size."""
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
