"""Data, keys and a test of uniformity, for the tests of samplers."""

import jax
import numpy as np

from jmeta.data.class_dataset import from_arrays
from jmeta.data.episodes import episodes


def pictures(classes, per_class, side=3, width=None):
    """Images without symmetry, no two of which are turns of each other."""
    shape = (classes * per_class, side, width or side, 1)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return from_arrays(images, np.repeat(np.arange(classes), per_class))


def keys(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


def assert_uniform(counts):
    """Chi-squared of `counts` must be within five standard deviations of its mean for equal probabilities."""
    counts = np.asarray(counts, np.float64).ravel()
    assert counts.size > 1
    assert counts.mean() > 20, "too few draws to judge"
    statistic = (np.square(counts - counts.mean()) / counts.mean()).sum()
    assert statistic < counts.size - 1 + 5 * np.sqrt(2 * (counts.size - 1)), counts


def numbered_episodes(way=3, shot=2, query=2, min_shot=None):
    """Examples that carry their class and their number."""
    x = np.stack(np.meshgrid(np.arange(8), np.arange(5), indexing="ij"), -1).reshape(-1, 2)
    data = from_arrays(x.astype(np.float32), x[:, 0])
    return episodes(data, way=way, shot=shot, query=query, min_shot=min_shot)
