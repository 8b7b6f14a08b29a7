"""GEM with products of remembered inputs that are kept between the tasks, against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import reference
from observing import build_online, observe_all
from scipy.optimize import nnls

import jmeta
from jmeta.models.mlp import after_first_layer
from jmeta.online.dense import dense_past_gradients

RATE, SLOTS, MARGIN, RIDGE = 0.2, 5, 0.1, 1e-3
NAMES = {"W1": ("dense_0", "kernel"), "b1": ("dense_0", "bias"), "W2": ("head", "kernel"),
         "b2": ("head", "bias")}  # fmt: skip


def network():
    plain = jmeta.mlp(widths=(5,), outputs=3)

    def init(key, x):
        params, state = plain.init(key, x)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params), state

    return plain._replace(init=init)


def flat(params):
    return np.concatenate([np.ravel(params[name]) for name in NAMES])


def of_reference(params):
    return {name: np.asarray(params[layer][leaf]) for name, (layer, leaf) in NAMES.items()}


def project(g, rows):
    """min v'(A A' + ridge) v / 2 + (A g)'v over v >= margin, as least squares without negative numbers."""
    if not (rows @ g < 0).any():
        return g
    gram = rows @ rows.T + RIDGE * np.eye(len(rows))
    lower = np.linalg.cholesky(gram)
    linear = rows @ g + gram @ np.full(len(rows), MARGIN)
    return g + (MARGIN + nnls(lower.T, -np.linalg.solve(lower, linear))[0]) @ rows


def test_the_cache_is_renewed_with_every_task():
    """Three tasks of three batches: the memory of a task is its last five examples."""
    random = np.random.default_rng(3)
    stream = random.normal(size=(9, 4, 6)), random.integers(0, 3, (9, 4)).astype(np.int32)
    past = dense_past_gradients(after_first_layer, jmeta.cross_entropy)
    settings = {"learning_rate": RATE, "slots": SLOTS, "margin": MARGIN, "ridge": RIDGE, "past": past}
    learner = build_online("gem", network(), tasks=3, **settings)
    states = [of_reference(state.params) for state in observe_all(learner, stream, jax.random.key(0))]

    conflicts = [0, 0, 0]
    for step, (x, y) in enumerate(zip(*stream)):
        before, task = states[step], step // 3
        g = flat(reference.gradient(before, x, y))
        if task:
            by_task = [part[: 3 * task].reshape(task, 12, -1)[:, -SLOTS:] for part in stream]
            rows = np.stack([flat(reference.gradient(before, x, y[:, 0])) for x, y in zip(*by_task)])
            conflicts[task] += (rows @ g < 0).any()
            g = project(g, rows)
        np.testing.assert_allclose(flat(states[step + 1]), flat(before) - RATE * g, rtol=1e-7, atol=1e-10)
    assert conflicts[1] and conflicts[2]
