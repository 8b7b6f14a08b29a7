"""The stack of LSTMs against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta.memory.lstm import lstm

WAY, HIDDEN, LAYERS = 3, 4, 3


def _sigmoid(values):
    return 1 / (1 + np.exp(-values))


def test_every_layer_remembers():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(4, 2)), np.array([2, 0, 1, 1])
    feedback = np.array([-1, 2, 0, 1])
    memory = lstm(WAY, hidden=HIDDEN, layers=LAYERS)
    params, state = memory.init(jax.random.key(0), jnp.asarray(x))
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), params)
    stream = jmeta.Stream(*map(jnp.asarray, (x, y, feedback)))
    outputs = jax.jit(lambda p: jmeta.unroll(memory, p, state, stream))(params).outputs

    output, cells = np.zeros((LAYERS, HIDDEN)), np.zeros((LAYERS, HIDDEN))
    for time in range(4):
        below = np.concatenate([x[time], np.arange(WAY) == feedback[time]])
        for layer, cell in enumerate(params.cells):
            i, f, g, o = np.split(below @ cell.inputs + output[layer] @ cell.recurrent + cell.bias, 4)
            cells[layer] = _sigmoid(f) * cells[layer] + _sigmoid(i) * np.tanh(g)
            output[layer] = below = _sigmoid(o) * np.tanh(cells[layer])
        np.testing.assert_allclose(outputs[time], below @ params.head + params.bias, rtol=1e-9)
