"""MER against a plain loop in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import reference
from observing import add_to, build_online, draw, fold_in, observe_all, real, split

from jmeta.types import Batch


def test_mer_is_the_published_loop(model, stream, as_numpy):
    settings = {
        "learning_rate": 0.3,
        "within": 0.2,
        "across": 0.7,
        "replay_batches": 2,
        "capacity": 5,
        "replay": 3,
    }
    learner = build_online("mer", model, **settings)
    key = jax.random.key(3)
    states = observe_all(learner, stream, key)
    params, memory = as_numpy(states[0].params), states[0].memory
    for step in range(6):
        keys = split(fold_in(key, step), 4)
        for i in range(4):
            key_add, key_draw = split(keys[i], 2)
            draws = [real(draw(memory, 3, k)) for k in split(key_draw, 2)]
            current = stream[0][step][i], stream[1][step][i]
            params = reference.mer_example(params, current, draws, 0.3, 0.2, 0.7)
            memory = add_to(memory, Batch(*(jnp.asarray(part)[None] for part in current)), key_add)
        for k in reference.KEYS:
            np.testing.assert_allclose(states[step + 1].params[k], params[k], rtol=1e-9, atol=1e-11)
