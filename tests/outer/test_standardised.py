"""Learners that standardise their inputs, as a run's recipe has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.outer.load import build
from jmeta.outer.play import adapt_and_predict
from jmeta.types import Memory

INPUT = {"shape": [4, 4, 2], "dtype": "float64"}
SCALE = {"mean": [0.2, 0.5], "std": [0.1, 2.0]}
SETTINGS = {
    "memory": {
        "memory": {"name": "lstm", "way": 3, "hidden": 4},
        "shots": 1, "remat_every": None, "truncate_every": None,
    },
    "adapter": {
        "adapter": {
            "name": "maml", "model": {"name": "mlp", "widths": [4]}, "inner_lr": 0.5, "inner_steps": 2,
            "loss_name": "cross_entropy", "smoothing": 0.0, "outputs": 3,
        },
    },
}  # fmt: skip


def outputs(learner, meta, state, x, y):
    if isinstance(learner, Memory):
        return jmeta.unroll(learner, meta, state, jmeta.Stream(x, y, y), train=False)[0]
    support = jmeta.Batch(x, y)
    return adapt_and_predict(learner, meta, state, support, x, jax.random.key(0), train=False)[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_standardised_learner_is_the_learner_of_standardised_inputs(name):
    recipe = SETTINGS[name] | {"optimiser": {"name": "sgd", "learning_rate": 0.1}, "chunk": None}
    plain, _ = build(recipe | {"input": INPUT})
    scaled, _ = build(recipe | {"input": INPUT | SCALE})
    x = jax.random.uniform(jax.random.key(1), (6, *INPUT["shape"]), jnp.float64)
    y = jnp.array([0, 1, 2, 2, 1, 0])
    meta, state = plain.init(jax.random.key(2), x)
    ours, theirs = scaled.init(jax.random.key(2), x)[0], meta
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    mean, std = (jnp.array(values).reshape(1, 1, 1, 2) for values in SCALE.values())
    expected = outputs(plain, meta, state, (x - mean) / std, y)
    np.testing.assert_allclose(outputs(scaled, meta, state, x, y), expected, rtol=1e-9)
    assert np.abs(outputs(plain, meta, state, x, y) - expected).max() > 1e-3
