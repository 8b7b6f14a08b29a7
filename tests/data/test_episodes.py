import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draw_helpers import assert_uniform, keys, pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from jmeta.data.class_dataset import from_arrays
from jmeta.data.episodes import episodes, episodes_from, rotate, sample_tasks
from jmeta.data.transforms import crop_flip_jitter

COUNTS = (4, 5, 6, 7, 9, 11)


def numbered(counts):
    """Vectors (class, index within the class), so that an episode tells its draws."""
    labels = np.repeat(np.arange(len(counts)), counts)
    index = np.concatenate([np.arange(count) for count in counts])
    return from_arrays(np.stack([labels, index], axis=1).astype(np.float32), labels)


@jax.jit
def draw(sampler, keys):
    return jax.vmap(sampler)(keys)


run_sampler = jax.jit(lambda sampler, key: sampler(key))
step_tasks = jax.jit(sample_tasks, static_argnums=3)


@pytest.fixture(scope="module")
def draws():
    """Class [task, way] and index [task, way, shot + query] of the examples of 20,000 episodes."""
    tasks = draw(episodes(numbered(COUNTS), way=3, shot=2, query=2), keys(20_000))
    x = np.concatenate([np.asarray(part.x).reshape(-1, 3, 2, 2) for part in tasks], axis=2).astype(int)
    assert (x[..., 0] == x[:, :, :1, 0]).all(), "the examples of a label are of one class"
    return x[:, :, 0, 0], x[..., 1]


def test_every_class_is_as_likely_under_every_label(draws):
    classes, _ = draws
    for label in range(3):
        assert_uniform(np.bincount(classes[:, label], minlength=6))
    pairs = np.zeros((6, 6))
    np.add.at(pairs, (classes[:, 0], classes[:, 2]), 1)
    assert (np.diag(pairs) == 0).all()
    assert_uniform(pairs[~np.eye(6, dtype=bool)])


def test_every_example_of_a_class_is_as_likely_in_every_place(draws):
    classes, index = draws
    for name, count in enumerate(COUNTS):
        picks = index[classes == name]
        for place in range(4):
            assert_uniform(np.bincount(picks[:, place], minlength=count))
        pairs = np.zeros((count, count))
        np.add.at(pairs, (picks[:, 1], picks[:, 2]), 1)
        assert (np.diag(pairs) == 0).all()
        assert_uniform(pairs[~np.eye(count, dtype=bool)])


@given(
    cuts=st.lists(st.integers(0, 20), min_size=4, max_size=4),
    shot=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**31 - 1),
)
@settings(deadline=None, max_examples=20)
def test_support_and_query_share_nothing(cuts, shot, seed):
    way = 4
    counts = np.diff([0, *sorted(cuts), 20]) + 4  # five classes of at least four
    task = draw(episodes(numbered(counts), way=way, shot=shot, query=4 - shot), keys(50, seed))
    both = np.concatenate([task.support.x, task.query.x], axis=1).astype(int)
    assert (both[..., 1] < counts[both[..., 0]]).all()
    rows = np.sort(both[..., 0] * 100 + both[..., 1], axis=1)
    assert (np.diff(rows, axis=1) > 0).all()
    for part, number in ((task.support, shot), (task.query, 4 - shot)):
        np.testing.assert_array_equal(part.y, np.tile(np.repeat(np.arange(way), number), (50, 1)))
        assert part.y.dtype == np.int32
        assert part.x.dtype == np.float32
        assert part.mask is None


def test_one_key_draws_one_episode():
    sampler = episodes(numbered(COUNTS), way=3, shot=2, query=2)
    first, again, other = draw(sampler, keys(1, 5)), draw(sampler, keys(1, 5)), draw(sampler, keys(1, 6))
    np.testing.assert_array_equal(first.query.x, again.query.x)
    assert (first.query.x != other.query.x).any()


def test_tasks_depend_on_key_step_and_index_alone():
    sampler, key = episodes(numbered(COUNTS), way=3, shot=2, query=2), jax.random.key(1)
    joint = step_tasks(sampler, key, 7, 6)
    for index in range(6):
        alone = run_sampler(sampler, jax.random.fold_in(jax.random.fold_in(key, 7), index))
        for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(joint)):
            np.testing.assert_array_equal(one, many[index])
    for few, many in zip(jax.tree.leaves(step_tasks(sampler, key, 7, 2)), jax.tree.leaves(joint)):
        np.testing.assert_array_equal(few, many[:2])
    assert (step_tasks(sampler, key, 8, 6).query.x != joint.query.x).any()


def test_equal_episodes_compile_once():
    program = jax.jit(lambda sampler, key: sampler(key))
    for seed in (0, 1):
        dataset = numbered(COUNTS)._replace(examples=numbered(COUNTS).examples + seed)
        program(episodes(dataset, way=2, shot=1, query=1, mean=[0.5, 1.0]), jax.random.key(0))
    assert program._cache_size() == 1


def test_rotations_are_new_classes():
    dataset = pictures(2, 3)
    tasks = draw(episodes(dataset, way=3, shot=1, query=2, rotations=True), keys(2000))
    turns = (
        np.stack([np.rot90(dataset.examples, turn, (1, 2)) for turn in range(4)]) / 255
    )  # [turn, row, ...]
    both = [np.asarray(part.x).reshape(2000, 3, -1, 1, 1, 9) for part in tasks]
    match = np.abs(np.concatenate(both, axis=2) - turns.reshape(4, 6, 9)).max(-1) < 1e-6
    assert (match.sum((-1, -2)) == 1).all(), "each image is one of the data, turned"
    turn, row = match.any(-1).argmax(-1), match.any(-2).argmax(-1)
    classes = row // 3 * 4 + turn  # [task, way, example]
    assert (classes == classes[:, :, :1]).all(), "the turn is the same for a whole class"
    assert all(len(set(task)) == 3 for task in classes[:, :, 0])
    assert_uniform(np.bincount(classes[:, 0, 0], minlength=8))


@pytest.mark.parametrize("turns", range(4))
def test_rotate_is_rot90(turns):
    images = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    np.testing.assert_array_equal(
        rotate(jnp.asarray(images), jnp.int32(turns)), np.rot90(images, turns, (1, 2))
    )


def test_way_and_shot_vary_behind_masks():
    sampler = episodes(numbered(COUNTS), way=4, shot=3, query=1, min_way=2, min_shot=1, mean=-1.0)
    support, query = draw(sampler, keys(3000))
    present = np.asarray(support.mask).reshape(-1, 4, 3)
    queried = np.asarray(query.mask)
    assert set(np.unique(present)) == {0, 1}
    way, shot = queried.sum(1).astype(int), present.sum(2).max(1).astype(int)
    expected = (np.arange(4)[:, None] < way[:, None, None]) & (np.arange(3) < shot[:, None, None])
    np.testing.assert_array_equal(present, expected)
    np.testing.assert_array_equal(queried, np.arange(4) < way[:, None])
    table = np.zeros((5, 4))
    np.add.at(table, (way, shot), 1)
    assert table[2:, 1:].sum() == 3000
    assert_uniform(table[2:, 1:])
    for part in (support, query):
        real = np.asarray(part.mask) > 0
        assert (np.asarray(part.x)[~real] == 0).all()
        assert (np.asarray(part.x)[real] >= 1).all()  # normalized: one more than class and index


def test_shot_alone_may_vary():
    task = run_sampler(episodes(numbered(COUNTS), way=2, shot=2, query=2, min_shot=1), jax.random.key(0))
    np.testing.assert_array_equal(task.query.mask, np.ones(4))
    assert task.support.mask.shape == (4,)


def test_images_are_scaled_augmented_then_normalized():
    dataset = pictures(3, 4)
    sampler = episodes(dataset, way=2, shot=1, query=2, transform=lambda key, x: x + 1, mean=[0.25], std=0.5)
    plain = episodes(dataset, way=2, shot=1, query=2)
    key = jax.random.key(0)
    changed, same = run_sampler(sampler, key).query.x, run_sampler(plain, key).query.x
    np.testing.assert_allclose(changed, (same + 0.75) / 0.5, rtol=1e-6)
    assert changed.dtype == np.float32
    assert 0.5 < float(same.max()) <= 1
    named = episodes(dataset, way=2, shot=1, query=2, transform="crop_flip_jitter")
    assert named.func.preparation.transform is crop_flip_jitter


def test_own_sources_draw_through_fetch():
    def fetch(data, key, chosen, number):
        return data * jnp.broadcast_to(chosen[:, None, None], (chosen.shape[0], number, 1)).astype(
            jnp.float32
        )

    sampler = episodes_from(fetch, jnp.float32(10), classes=2, shape=(1,), way=2, shot=1, query=1)
    task = run_sampler(sampler, jax.random.key(0))
    assert sorted(task.support.x.ravel().tolist()) == [0, 10]
    np.testing.assert_array_equal(task.support.x, task.query.x)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"way": 7}, "way 7 asks for 7 classes, there are 6; lower way$"),
        ({"way": 7, "shot": 3}, "way 7 asks for 7 classes"),
        ({"shot": 3}, r"class 0 has 4 examples, 3 shots and 2 queries ask for 5 \(1 of 6 classes"),
        ({"way": 0}, "way is 0; expected an integer, at least 1"),
        ({"query": 2.0}, "query is 2.0; expected an integer"),
        ({"min_way": 4}, "min_way is 4; expected 1 to 3"),
        ({"min_shot": 0}, "min_shot is 0; expected 1 to 1"),
        ({"rotations": True}, r"square images \[side, side, channel\], these examples are \(2,\)"),
        ({"std": [1.0, 0.0]}, "std is"),
        ({"transform": "blur"}, "augmentation 'blur' is not one of none"),
    ],
)
def test_impossible_episodes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        episodes(numbered(COUNTS), **({"way": 3, "shot": 1, "query": 2} | options))


def test_rotations_ask_for_squares_and_enough_classes():
    with pytest.raises(ValueError, match="square images"):
        episodes(pictures(3, 4, width=2), way=2, shot=1, query=1, rotations=True)
    with pytest.raises(ValueError, match="there are 3; lower way or use rotations=True"):
        episodes(pictures(3, 4), way=5, shot=1, query=1)


def test_settings_and_rows_that_do_not_fit_the_examples():
    data = pictures(4, 3)
    size = {"way": 2, "shot": 1, "query": 1}
    with pytest.raises(ValueError, match="mean has 3 numbers, these examples are"):
        episodes(data, **size, mean=(0.1, 0.2, 0.3))
    episodes(data, **size, mean=(0.5,), std=2.0)
    with pytest.raises(ValueError, match=r"rows 0..11, there are 11 examples"):
        episodes(data._replace(examples=data.examples[:11]), **size)
    with pytest.raises(ValueError, match="the smallest of 0 examples"):
        episodes(data._replace(counts=data.counts * 0), **size)
    fetch = lambda data, key, classes, number: data  # noqa: E731
    own = episodes_from(fetch, data.examples, classes=4, shape=(3, 3, 1), **size)
    with pytest.raises(ValueError, match=r"fetch returned .* expected \[2, 2, ...\]"):
        own(jax.random.key(0))
