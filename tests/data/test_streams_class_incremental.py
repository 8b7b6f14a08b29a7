"""Continual few-shot tasks: the order of their classes, and their labels."""

import jax
import numpy as np
import pytest
from draw_helpers import numbered_episodes

from jmeta.data.streams.class_incremental import continual_few_shot


def test_a_continual_task_shows_one_class_after_another_and_asks_for_all():
    sampler = continual_few_shot(numbered_episodes(way=3, shot=2, query=3), subtasks=3, slots=5)
    draw = jax.jit(jax.vmap(sampler))
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
    sampler = continual_few_shot(numbered_episodes(way=2, shot=1, query=1), subtasks=2, slots=3)
    draw = jax.jit(jax.vmap(sampler))
    y = np.asarray(draw(jax.random.split(jax.random.key(3), 6000)).support.y)
    pairs, counts = np.unique(y, axis=0, return_counts=True)
    assert len(pairs) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-squared, 5 degrees, p = 0.001


def test_what_a_continual_task_asks_of_its_episodes():
    with pytest.raises(ValueError, match="a slot for each subtask"):
        continual_few_shot(numbered_episodes(), subtasks=3, slots=2)
    with pytest.raises(ValueError, match="subtasks=4 of episodes of way 2; expected a class for each"):
        continual_few_shot(numbered_episodes(way=2), subtasks=4, slots=5)
    with pytest.raises(ValueError, match="some of them padding; expected fixed episodes of way 3"):
        continual_few_shot(numbered_episodes(way=3, min_shot=1), subtasks=3, slots=5)(jax.random.key(0))


@pytest.mark.parametrize("way, subtasks", [(4, 2), (2, 4), (3, 3)])
def test_ones_own_episodes_of_another_way_have_no_labels(way, subtasks):
    """Their number of examples divides, but labels would be those of a clamped index."""
    draw = numbered_episodes(way=way, shot=2, query=2)
    own = jax.tree_util.Partial(lambda key: draw(key))
    task = jax.jit(continual_few_shot(own, subtasks=subtasks, slots=5))(jax.random.key(0))
    for labels in (task.support.y, task.query.y):
        assert (labels >= 0).all() if way == subtasks else (labels == -1).all()
