"""Experience replay and plain online descent against their loops in float64."""

import jax
import numpy as np
import reference
from observing import build_online, draw, fold_in, observe_all, real, split


def test_replay_and_plain_descent_are_their_loops(model, stream, as_numpy):
    key = jax.random.key(3)
    plain = observe_all(build_online("sgd", model, learning_rate=0.2), stream, key)
    settings = {"learning_rate": 0.2, "capacity": 5, "replay": 3}
    replayed = observe_all(build_online("er", model, **settings), stream, key)
    for states, draws in ((plain, False), (replayed, True)):
        for step in range(6):
            x, y = stream[0][step], stream[1][step]
            if draws:
                key_draw, _ = split(fold_in(key, step), 2)
                drawn = real(draw(states[step].memory, 3, key_draw))
                x, y = np.concatenate([x, drawn[0]]), np.concatenate([y, drawn[1]])
            before = as_numpy(states[step].params)
            g = reference.gradient(before, x, y)
            for k in reference.KEYS:
                np.testing.assert_allclose(states[step + 1].params[k], before[k] - 0.2 * g[k], rtol=1e-9)
