"""Online streams: their order, their labels and when these arrive; accuracy by shot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.data.online_streams import continual_few_shot, delayed, online_few_shot
from jmeta.metrics import accuracy_by_shot, accuracy_by_subtask


def episodes(way=3, shot=2, query=2, min_shot=None):
    """Examples that carry their class and their number."""
    x = np.stack(np.meshgrid(np.arange(8), np.arange(5), indexing="ij"), -1).reshape(-1, 2)
    data = jmeta.from_arrays(x.astype(np.float32), x[:, 0])
    return jmeta.episodes(data, way=way, shot=shot, query=query, min_shot=min_shot)


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_a_stream_shows_each_class_as_often_and_its_labels_late(delay):
    draw = jax.jit(jax.vmap(online_few_shot(episodes(), delay=delay)))
    streams = draw(jax.random.split(jax.random.key(0), 50))
    for x, y, feedback in zip(streams.x, streams.y, streams.feedback):
        assert np.bincount(y).tolist() == [4, 4, 4]
        assert len({tuple(row) for row in np.asarray(x).tolist()}) == 12
        assert all(len(np.unique(x[y == label, 0])) == 1 for label in range(3))
        assert feedback[:delay].tolist() == [-1] * delay
        assert feedback[delay:].tolist() == y[: 12 - delay].tolist()


def test_the_order_is_uniform():
    draw = jax.jit(jax.vmap(online_few_shot(episodes(way=2, shot=1, query=1))))
    y = np.asarray(draw(jax.random.split(jax.random.key(3), 6000)).y)
    orders, counts = np.unique(y, axis=0, return_counts=True)
    assert len(orders) == 6  # of two examples of each of two classes
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-squared, 5 degrees, p = 0.001


def test_a_delay_longer_than_the_stream():
    assert delayed(jnp.arange(3), 5).tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match="delay=0"):
        online_few_shot(episodes(), delay=0)


def test_accuracy_by_shot_counts_presentations():
    """The spec's example: right where the flags are 1, by how often the class was shown before."""
    y = jnp.array([0, 1, 0, 0, 1])
    right = jnp.array([0, 0, 1, 0, 1])
    logits = jax.nn.one_hot(jnp.where(right == 1, y, 1 - y), 2)
    found = accuracy_by_shot(logits, jmeta.Stream(jnp.zeros(5), y, y), shots=3)
    np.testing.assert_equal(
        {name: float(value) for name, value in found.items()},
        {"accuracy_0_shot": 0.0, "accuracy_1_shot": 1.0, "accuracy_2_shot": 0.0, "accuracy_3_shot": np.nan},
    )
    masked = jmeta.Stream(jnp.zeros(5), y, y, jnp.array([1.0, 1, 0, 1, 1]))
    assert float(accuracy_by_shot(logits, masked, shots=2)["accuracy_1_shot"]) == 0.5


def test_padding_comes_after_the_stream_and_feeds_nothing_back():
    draw = jax.jit(jax.vmap(online_few_shot(episodes(way=3, shot=3, query=1, min_shot=1), delay=2)))
    streams = draw(jax.random.split(jax.random.key(0), 100))
    length = np.asarray(streams.mask).sum(1).astype(int)
    assert set(length) == {6, 9, 12}
    for n, mask, y, feedback in zip(length, streams.mask, streams.y, streams.feedback):
        assert (np.asarray(mask[:n]) == 1).all()
        arrived = [-1, -1, *y[:n].tolist(), *[-1] * (12 - n)]
        assert feedback.tolist() == arrived[:12]
        assert (np.bincount(np.asarray(y[:n])) == n / 3).all()


def test_a_continual_task_shows_one_class_after_another_and_asks_for_all():
    draw = jax.jit(jax.vmap(continual_few_shot(episodes(way=3, shot=2, query=3), subtasks=3, slots=5)))
    tasks = draw(jax.random.split(jax.random.key(0), 200))
    stream, query = tasks.support, tasks.query
    for time in range(1, 6):
        assert (stream.feedback[:, time] == stream.y[:, time - 1]).all()
    assert (stream.feedback[:, 0] == -1).all() and (
        np.asarray(stream.task) == np.repeat(np.arange(3), 2)
    ).all()
    for task in range(200):
        label_of = dict(zip(np.asarray(stream.x[task, :, 0]).tolist(), stream.y[task].tolist()))
        assert len(label_of) == len(set(label_of.values())) == 3
        assert [label_of[x] for x in np.asarray(query.x[task, :, 0]).tolist()] == query.y[task].tolist()
        assert query.y[task].tolist() == np.repeat(stream.y[task, ::2], 3).tolist()  # grouped, in order
        shown = np.concatenate([stream.x[task], query.x[task]])
        assert len({tuple(row) for row in shown.tolist()}) == 15


def test_labels_of_a_continual_task_are_random():
    """Every class at every place is as likely to have any of the labels."""
    draw = jax.jit(jax.vmap(continual_few_shot(episodes(way=2, shot=1, query=1), subtasks=2, slots=3)))
    y = np.asarray(draw(jax.random.split(jax.random.key(3), 6000)).support.y)
    pairs, counts = np.unique(y, axis=0, return_counts=True)
    assert len(pairs) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-squared, 5 degrees, p = 0.001


def test_what_a_continual_task_asks_of_its_episodes():
    with pytest.raises(ValueError, match="a slot for each subtask"):
        continual_few_shot(episodes(), subtasks=3, slots=2)
    with pytest.raises(ValueError, match="expected fixed episodes of way 4"):
        continual_few_shot(episodes(), subtasks=4, slots=5)(jax.random.key(0))


def test_accuracy_by_subtask_counts_positions():
    y = jnp.array([4, 4, 0, 0, 2, 2])
    right = jnp.array([1, 0, 1, 1, 0, 0])
    logits = jax.nn.one_hot(jnp.where(right == 1, y, 1), 5)
    found = accuracy_by_subtask(logits, jmeta.Batch(None, y), subtasks=4)
    expected = {
        "accuracy_subtask_1": 0.5, "accuracy_subtask_2": 1.0, "accuracy_subtask_3": 0.0,
        "accuracy_subtask_4": np.nan, "accuracy_before_last": 0.75,
    }  # fmt: skip
    np.testing.assert_equal({name: float(value) for name, value in found.items()}, expected)
