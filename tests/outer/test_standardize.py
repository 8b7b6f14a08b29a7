"""Adapters and memories that standardize their inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.outer.episode import adapt_and_predict
from jmeta.outer.standardize import standardize_inputs
from jmeta.types import Memory

SHAPE = (4, 4, 2)
MEAN, STD = [0.2, 0.5], [0.1, 2.0]
LEARNERS = {
    "memory": lambda: jmeta.lstm(3, hidden=4),
    "adapter": lambda: jmeta.gradient_adapter(
        jmeta.mlp(widths=[4], outputs=3), jmeta.cross_entropy, jmeta.sgd(0.5), 2
    ),
}


def outputs(learner, meta, state, x, y):
    if isinstance(learner, Memory):
        return jmeta.unroll(learner, meta, state, jmeta.Stream(x, y, y), train=False).outputs
    support = jmeta.Batch(x, y)
    return adapt_and_predict(learner, meta, state, support, x, jax.random.key(0), train=False)[0]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_with_standardized_inputs_is_the_learner_of_standardized_inputs(name):
    plain = LEARNERS[name]()
    scaled = standardize_inputs(plain, MEAN, STD)
    x = jax.random.uniform(jax.random.key(1), (6, *SHAPE), jnp.float64)
    y = jnp.array([0, 1, 2, 2, 1, 0])
    meta, state = plain.init(jax.random.key(2), x)
    ours, theirs = scaled.init(jax.random.key(2), x)[0], meta
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    mean, std = (jnp.array(values).reshape(1, 1, 1, 2) for values in (MEAN, STD))
    expected = outputs(plain, meta, state, (x - mean) / std, y)
    np.testing.assert_allclose(outputs(scaled, meta, state, x, y), expected, rtol=1e-9)
    assert np.abs(outputs(plain, meta, state, x, y) - expected).max() > 1e-3
