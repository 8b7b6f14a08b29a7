"""Online streams: their order, their labels and when these arrive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draw_helpers import numbered_episodes

from jmeta.data.streams.delayed import delayed, online_few_shot


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_a_stream_shows_each_class_as_often_and_its_labels_late(delay):
    draw = jax.jit(jax.vmap(online_few_shot(numbered_episodes(), delay=delay)))
    streams = draw(jax.random.split(jax.random.key(0), 50))
    for x, y, feedback in zip(streams.x, streams.y, streams.feedback):
        assert np.bincount(y).tolist() == [4, 4, 4]
        assert len({tuple(row) for row in np.asarray(x).tolist()}) == 12
        assert all(len(np.unique(x[y == label, 0])) == 1 for label in range(3))
        assert feedback[:delay].tolist() == [-1] * delay
        assert feedback[delay:].tolist() == y[: 12 - delay].tolist()


def test_the_order_is_uniform():
    draw = jax.jit(jax.vmap(online_few_shot(numbered_episodes(way=2, shot=1, query=1))))
    y = np.asarray(draw(jax.random.split(jax.random.key(3), 6000)).y)
    orders, counts = np.unique(y, axis=0, return_counts=True)
    assert len(orders) == 6  # of two examples of each of two classes
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-squared, 5 degrees, p = 0.001


def test_a_delay_longer_than_the_stream():
    assert delayed(jnp.arange(3), 5).tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match="delay=0"):
        online_few_shot(numbered_episodes(), delay=0)
    draw = numbered_episodes(way=2, shot=1, query=1)
    with pytest.raises(ValueError, match="delay=4 for a stream of 4 steps; no label would arrive"):
        jax.jit(online_few_shot(draw, delay=4))(jax.random.key(0))
    assert (online_few_shot(draw, delay=3)(jax.random.key(0)).feedback >= 0).sum() == 1


def test_padding_comes_after_the_stream_and_feeds_nothing_back():
    draw = jax.jit(jax.vmap(online_few_shot(numbered_episodes(way=3, shot=3, query=1, min_shot=1), delay=2)))
    streams = draw(jax.random.split(jax.random.key(0), 100))
    length = np.asarray(streams.mask).sum(1).astype(int)
    assert set(length) == {6, 9, 12}
    for n, mask, y, feedback in zip(length, streams.mask, streams.y, streams.feedback):
        assert (np.asarray(mask[:n]) == 1).all()
        arrived = [-1, -1, *y[:n].tolist(), *[-1] * (12 - n)]
        assert feedback.tolist() == arrived[:12]
        assert (np.bincount(np.asarray(y[:n])) == n / 3).all()
