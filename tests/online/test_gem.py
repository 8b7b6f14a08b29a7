"""GEM and A-GEM against a plain loop in float64."""

import jax
import numpy as np
import reference
from observing import build_online, observe_all
from test_projection import reference as solve


def flat(tree):
    return np.concatenate([np.ravel(tree[k]) for k in sorted(tree)])


def test_gem_steps_along_the_projected_gradient(model, stream, as_numpy):
    learner = build_online("gem", model, tasks=2, learning_rate=0.2, slots=5, margin=0.1)
    states = observe_all(learner, stream, jax.random.key(0))
    x, y = stream
    past_x, past_y = x[:3].reshape(12, -1), y[:3].reshape(12)
    ring = [10, 11, 7, 8, 9]  # the last five of the twelve examples of task 0, where the ring put them
    np.testing.assert_allclose(states[3].memory.examples.x[0], past_x[ring])
    conflicts = 0
    for step in range(6):
        before = as_numpy(states[step].params)
        g = flat(reference.gradient(before, x[step], y[step]))
        if step >= 3:
            row = flat(reference.gradient(before, past_x[ring], past_y[ring]))
            if row @ g < 0:
                conflicts += 1
                gram = np.array([[row @ row + 1e-3]])
                v = 0.1 + solve(gram, np.array([row @ g]) + gram @ [0.1])
                g = g + v[0] * row
        np.testing.assert_allclose(flat(as_numpy(states[step + 1].params)), flat(before) - 0.2 * g, rtol=1e-8)
    assert conflicts


def test_agem_takes_out_the_part_against_the_past(model, stream, as_numpy):
    learner = build_online("agem", model, tasks=2, learning_rate=0.2, slots=5, replay=4000)
    states = observe_all(learner, stream, jax.random.key(0))
    x, y = stream
    held = np.arange(7, 12)
    for step in range(6):
        before = as_numpy(states[step].params)
        g = flat(reference.gradient(before, x[step], y[step]))
        move = (flat(before) - flat(as_numpy(states[step + 1].params))) / 0.2
        if step < 3:
            np.testing.assert_allclose(move, g, rtol=1e-8)
            continue
        row = flat(reference.gradient(before, x[:3].reshape(12, -1)[held], y[:3].reshape(12)[held]))
        expected = g - min(row @ g, 0) / (row @ row) * row  # of all that is held: many draws come near
        np.testing.assert_allclose(move, expected, atol=0.08 * np.abs(g).max())
        assert not np.allclose(move, g) or row @ g > -1e-2
