import math

import jax
import numpy as np
import pytest

from jmeta.data.sources import sinusoid


def draw(sampler, number, seed=0):
    return jax.jit(jax.vmap(sampler))(jax.random.split(jax.random.key(seed), number))


def waves(task):
    """Amplitude and phase of each task, and how far the points are from their wave, by least squares."""
    x, y = (np.concatenate([task.support[i], task.query[i]], axis=1).astype(np.float64) for i in (0, 1))
    design = np.concatenate([np.sin(x), -np.cos(x)], axis=2)
    weights = np.stack([np.linalg.lstsq(a, b, rcond=None)[0][:, 0] for a, b in zip(design, y)])
    residual = y[..., 0] - (design @ weights[:, :, None])[..., 0]
    return np.hypot(*weights.T), np.arctan2(weights[:, 1], weights[:, 0]), np.abs(residual).max()


def assert_uniform(values, low, high, bins=10):
    counts, _ = np.histogram(values, bins, (low, high))
    assert counts.sum() == values.size, "values outside the range"
    expected = values.size / bins
    statistic = (np.square(counts - expected) / expected).sum()
    assert statistic < bins - 1 + 5 * math.sqrt(2 * (bins - 1)), counts


def test_tasks_are_sine_waves_of_uniform_amplitude_and_phase():
    task = draw(sinusoid.sinusoids(shot=10, query=6), 2000)
    assert task.support.x.shape == task.support.y.shape == (2000, 10, 1)
    assert task.query.x.shape == task.query.y.shape == (2000, 6, 1)
    assert {leaf.dtype for leaf in jax.tree.leaves(task)} == {np.dtype(np.float32)}
    amplitude, phase, error = waves(task)
    assert error < 1e-4
    assert_uniform(amplitude, 0.1 - 1e-4, 5.0001)
    assert_uniform(phase, -1e-3, math.pi + 1e-3)
    assert_uniform(np.asarray(task.support.x).ravel(), -5, 5)
    assert_uniform(np.asarray(task.query.x).ravel(), -5, 5)
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 0.1


def test_ranges_may_be_set():
    """sin(x + p), as Huisman et al. write it, is a range of negative phases."""
    sampler = sinusoid.sinusoids(shot=5, query=5, amplitude=(2, 2), phase=(-math.pi, 0.0), x=(0.0, 4.0))
    task = draw(sampler, 200)
    amplitude, phase, _ = waves(task)
    np.testing.assert_allclose(amplitude, 2, rtol=1e-3)
    assert_uniform(-phase, -1e-3, math.pi + 1e-3)
    assert float(task.support.x.min()) >= 0


def test_the_data_set_draws_from_every_split():
    source = sinusoid.sinusoid_dataset()
    keys = jax.random.split(jax.random.key(0), 2)
    for split in ("train", "validation", "test"):
        task = jax.vmap(source.episodes(split, shot=1, query=2))(keys)
        assert task.query.y.shape == (2, 2, 1)
    with pytest.raises(ValueError, match="split 'dev' is not one of"):
        source.episodes("dev", shot=1, query=1)


@pytest.mark.parametrize(
    "options, message", [({"shot": 0}, "shot is 0"), ({"x": (1.0, -1.0)}, "x is .* expected .low, high.")]
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sinusoid.sinusoids(**({"shot": 1, "query": 1} | options))
