"""OSAKA's stream: domains, classes, labels and switches, and the episodes of its pre-training."""

import jax
import numpy as np
import pytest

import jmeta
from jmeta.data.streams import osaka

WAY, SHOT, STEPS = 4, 3, 2000
SIZES = {0: 12, 1: 5, 2: 4}  # classes of each domain


def classes(count, first, per_class=20):
    """Images whose pixels say (domain's hundred + class, number within the class)."""
    labels = np.repeat(np.arange(count), per_class)
    pixels = np.stack([first + labels, np.tile(np.arange(per_class), count)], -1)
    return jmeta.from_arrays(pixels.reshape(-1, 1, 2, 1).astype(np.uint8), labels)


@pytest.fixture(scope="module")
def data():
    uneven = classes(SIZES[2], 200)
    uneven = uneven._replace(counts=np.array([20, 9, 20, 15], np.int32))
    return osaka.domains([classes(SIZES[0], 0), classes(SIZES[1], 100), uneven], (0.5, 0.25, 0.25))


def draw_stream(data, key, steps=STEPS, stay=0.9):
    """All of a stream: pixels [step, example, 2] and labels, domains, switches."""

    def draw(data, key):
        line = osaka.timeline(key, steps=steps, stay=stay)
        return jax.lax.map(
            lambda step: osaka.shown_at(data, line, step, way=WAY, shot=SHOT), jax.numpy.arange(steps)
        )

    draws = jax.jit(draw)(data, key)
    x = np.rint(255 * np.asarray(draws.batch.x, np.float64)).astype(int).reshape(steps, WAY * SHOT, 2)
    return x, np.asarray(draws.batch.y), np.asarray(draws.domain), np.asarray(draws.switched)


@pytest.fixture(scope="module")
def stream(data):
    return draw_stream(data, jax.random.key(0))


def test_tasks_switch_as_often_as_they_should_and_stay_otherwise(stream):
    x, y, domain, switched = stream
    assert switched[0]
    assert abs(switched[1:].mean() - 0.1) < 4 * (0.1 * 0.9 / STEPS) ** 0.5
    stays = ~switched[1:]
    np.testing.assert_array_equal(x[1:, :, 0][stays], x[:-1, :, 0][stays])  # classes and their labels
    np.testing.assert_array_equal(domain[1:][stays], domain[:-1][stays])
    assert (x[1:, :, 1][stays] != x[:-1, :, 1][stays]).any(1).mean() > 0.99  # but other images
    again = (x[1:, :, 0] == x[:-1, :, 0]).all(1)[switched[1:]]
    assert again.mean() < 0.1  # a redraw may repeat a task, but seldom does


def test_a_batch_is_a_few_images_of_each_of_a_few_classes_of_a_domain(stream):
    x, y, domain, _ = stream
    assert (y == np.repeat(np.arange(WAY), SHOT)).all()
    of_way = x[:, :, 0].reshape(STEPS, WAY, SHOT)
    assert (of_way == of_way[:, :, :1]).all()
    assert all(len(set(row)) == WAY for row in of_way[:, :, 0].tolist())
    assert (of_way[:, 0, 0] // 100 == domain).all()
    assert x[domain == 2, :, 1].max() == 8  # every class is cut to the smallest
    assert x[domain == 1, :, 1].max() == 19


def test_domains_have_their_shares_and_a_full_domain_is_relabeled(stream):
    x, _, domain, switched = stream
    tasks = domain[switched]
    for index, share in enumerate((0.5, 0.25, 0.25)):
        assert abs((tasks == index).mean() - share) < 4 * (share * (1 - share) / len(tasks)) ** 0.5
    full = x[switched & (domain == 2), ::SHOT, 0]
    assert len({tuple(row) for row in full.tolist()}) > 12  # of 24 orders of all four classes
    assert (np.sort(full, 1) == np.arange(200, 204)).all()


def test_a_step_depends_on_the_key_and_the_step_alone(data, stream):
    shorter = draw_stream(data, jax.random.key(0), steps=30)
    for few, many in zip(shorter, stream):
        np.testing.assert_array_equal(few, many[:30])
    other = draw_stream(data, jax.random.key(1), steps=30)
    assert (other[0] != shorter[0]).any()
    assert draw_stream(data, jax.random.key(0), steps=20, stay=1.0)[3].sum() == 1
    assert draw_stream(data, jax.random.key(0), steps=20, stay=0.0)[3].all()


def test_pretraining_keeps_support_and_query_drawings_apart():
    source = classes(9, 0)
    sampler = osaka.pretraining_episodes(source, [8, 2, 4, 6], way=3, shot=5, query=7)
    tasks = jax.jit(jax.vmap(sampler))(jax.random.split(jax.random.key(0), 300))
    support, query = (
        np.rint(255 * np.asarray(part.x, np.float64)).astype(int).reshape(300, -1, 2) for part in tasks
    )
    assert set(support[..., 0].ravel()) == set(query[..., 0].ravel()) == {2, 4, 6, 8}
    assert set(support[..., 1].ravel()) == set(range(10))
    assert set(query[..., 1].ravel()) == set(range(10, 20))
    repeats = [len(set(row[:5])) < 5 for row in support[..., 1].tolist()]
    assert abs(np.mean(repeats) - (1 - 10 * 9 * 8 * 7 * 6 / 1e5)) < 0.11  # drawn with replacement
    np.testing.assert_array_equal(support[:, ::5, 0], query[:, ::7, 0])


def test_parts_are_joined_and_turned_over():
    both = osaka.concatenate_classes([classes(2, 0), classes(3, 50)])
    assert both.offsets.tolist() == [0, 20, 40, 60, 80] and both.counts.tolist() == [20] * 5
    assert both.examples[both.offsets, 0, 0, 0].tolist() == [0, 1, 50, 51, 52]
    assert osaka.invert_images(both).examples[both.offsets, 0, 0, 0].tolist() == [255, 254, 205, 204, 203]


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="shares .* for 1 sources"):
        osaka.domains([classes(2, 0)], (0.5, 0.5))
    with pytest.raises(ValueError, match="stay=1.5"):
        osaka.timeline(jax.random.key(0), steps=3, stay=1.5)
    with pytest.raises(ValueError, match="expected more than 10"):
        osaka.pretraining_episodes(classes(4, 0, per_class=10), [0, 1], way=2, shot=1, query=1)
    with pytest.raises(ValueError, match="classes is 4; expected 0..3"):
        osaka.pretraining_episodes(classes(4, 0), [4], way=1, shot=1, query=1)


def test_a_step_of_more_classes_or_beyond_the_timeline():
    """Refused if it can be seen, else of no finite pixel."""
    data = osaka.domains([classes(6, 0)], (1.0,))
    line = osaka.timeline(jax.random.key(0), steps=3, stay=0.5)
    with pytest.raises(ValueError, match="way=7; expected at most the 6 classes"):
        osaka.shown_at(data, line, 0, way=7, shot=1)
    with pytest.raises(ValueError, match="step is 3; expected 0..2, a timeline of 3 steps"):
        osaka.shown_at(data, line, 3, way=2, shot=1)
    show = jax.jit(osaka.shown_at, static_argnames=("way", "shot"))
    assert np.isnan(show(data, line, 0, way=7, shot=1).batch.x).all()
    assert np.isnan(show(data, line, 3, way=2, shot=1).batch.x).all()
    assert np.isfinite(show(data, line, 2, way=6, shot=1).batch.x).all()
