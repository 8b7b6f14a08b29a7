import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmeta.data.class_dataset import from_arrays
from jmeta.data.episodes import (
    below,
    distinct,
    episodes,
    episodes_from,
    flat_batches,
    rotate,
    sample_tasks,
    whole,
)
from jmeta.data.transforms import crop_flip_jitter

COUNTS = (4, 5, 6, 7, 9, 11)


def numbered(counts):
    """Vectors (class, index within the class), so that an episode tells what was drawn."""
    labels = np.repeat(np.arange(len(counts)), counts)
    index = np.concatenate([np.arange(count) for count in counts])
    return from_arrays(np.stack([labels, index], axis=1).astype(np.float32), labels)


def pictures(classes, per_class, side=3, width=None):
    """Images without symmetry, of which no two are turns of each other."""
    shape = (classes * per_class, side, width or side, 1)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return from_arrays(images, np.repeat(np.arange(classes), per_class))


@jax.jit
def draw(sampler, keys):
    return jax.vmap(sampler)(keys)


play = jax.jit(lambda sampler, key: sampler(key))
step_tasks = jax.jit(sample_tasks, static_argnums=3)


def keys(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


def assert_uniform(counts):
    """Chi-squared of `counts` within five standard deviations of what equal probabilities give."""
    counts = np.asarray(counts, np.float64).ravel()
    assert counts.size > 1
    assert counts.mean() > 20, "too few draws to judge"
    statistic = (np.square(counts - counts.mean()) / counts.mean()).sum()
    assert statistic < counts.size - 1 + 5 * np.sqrt(2 * (counts.size - 1)), counts


@pytest.fixture(scope="module")
def drawn():
    """Class [task, way] and index [task, way, shot + query] of what 20,000 episodes drew."""
    tasks = draw(episodes(numbered(COUNTS), way=3, shot=2, query=2), keys(20_000))
    x = np.concatenate([np.asarray(part.x).reshape(-1, 3, 2, 2) for part in tasks], axis=2).astype(int)
    assert (x[..., 0] == x[:, :, :1, 0]).all(), "the examples of a label are of one class"
    return x[:, :, 0, 0], x[..., 1]


def test_every_class_is_as_likely_under_every_label(drawn):
    classes, _ = drawn
    for label in range(3):
        assert_uniform(np.bincount(classes[:, label], minlength=6))
    pairs = np.zeros((6, 6))
    np.add.at(pairs, (classes[:, 0], classes[:, 2]), 1)
    assert (np.diag(pairs) == 0).all()
    assert_uniform(pairs[~np.eye(6, dtype=bool)])


def test_every_example_of_a_class_is_as_likely_in_every_place(drawn):
    classes, index = drawn
    for name, count in enumerate(COUNTS):
        picks = index[classes == name]
        for place in range(4):
            assert_uniform(np.bincount(picks[:, place], minlength=count))
        pairs = np.zeros((count, count))
        np.add.at(pairs, (picks[:, 1], picks[:, 2]), 1)
        assert (np.diag(pairs) == 0).all()
        assert_uniform(pairs[~np.eye(count, dtype=bool)])


def test_ordered_samples_are_equally_likely():
    draws = jax.jit(jax.vmap(lambda key: distinct(key, jnp.int32(4), 3)))(keys(12_000))
    samples, counts = np.unique(np.asarray(draws), axis=0, return_counts=True)
    assert len(samples) == 24
    assert_uniform(counts)


def test_below_is_sixty_four_bits_modulo_the_total():
    total = np.array([1, 2, 3, 1000, 65521], np.int32)
    words = np.asarray(jax.random.bits(jax.random.key(3), (32,), jnp.uint32)).astype(object)
    expected = [(int(words[i]) * 2**32 + int(words[5 + i])) % int(total[i]) for i in range(5)]
    np.testing.assert_array_equal(below(jax.random.key(3), jnp.asarray(total)), expected)


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
    together = step_tasks(sampler, key, 7, 6)
    for index in range(6):
        alone = play(sampler, jax.random.fold_in(jax.random.fold_in(key, 7), index))
        for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(together)):
            np.testing.assert_array_equal(one, many[index])
    for few, many in zip(jax.tree.leaves(step_tasks(sampler, key, 7, 2)), jax.tree.leaves(together)):
        np.testing.assert_array_equal(few, many[:2])
    assert (step_tasks(sampler, key, 8, 6).query.x != together.query.x).any()


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
    found = np.abs(np.concatenate(both, axis=2) - turns.reshape(4, 6, 9)).max(-1) < 1e-6
    assert (found.sum((-1, -2)) == 1).all(), "each image is one of the data, turned"
    turn, row = found.any(-1).argmax(-1), found.any(-2).argmax(-1)
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
    given_ = np.asarray(support.mask).reshape(-1, 4, 3)
    asked = np.asarray(query.mask)
    assert set(np.unique(given_)) == {0, 1}
    way, shot = asked.sum(1).astype(int), given_.sum(2).max(1).astype(int)
    expected = (np.arange(4)[:, None] < way[:, None, None]) & (np.arange(3) < shot[:, None, None])
    np.testing.assert_array_equal(given_, expected)
    np.testing.assert_array_equal(asked, np.arange(4) < way[:, None])
    table = np.zeros((5, 4))
    np.add.at(table, (way, shot), 1)
    assert table[2:, 1:].sum() == 3000
    assert_uniform(table[2:, 1:])
    for part in (support, query):
        real = np.asarray(part.mask) > 0
        assert (np.asarray(part.x)[~real] == 0).all()
        assert (np.asarray(part.x)[real] >= 1).all()  # normalised: one more than class and index


def test_shot_alone_may_vary():
    task = play(episodes(numbered(COUNTS), way=2, shot=2, query=2, min_shot=1), jax.random.key(0))
    np.testing.assert_array_equal(task.query.mask, np.ones(4))
    assert task.support.mask.shape == (4,)


def test_images_are_scaled_augmented_then_normalised():
    dataset = pictures(3, 4)
    sampler = episodes(dataset, way=2, shot=1, query=2, transform=lambda key, x: x + 1, mean=[0.25], std=0.5)
    plain = episodes(dataset, way=2, shot=1, query=2)
    key = jax.random.key(0)
    changed, same = play(sampler, key).query.x, play(plain, key).query.x
    np.testing.assert_allclose(changed, (same + 0.75) / 0.5, rtol=1e-6)
    assert changed.dtype == np.float32
    assert 0.5 < float(same.max()) <= 1
    named = episodes(dataset, way=2, shot=1, query=2, transform="crop_flip_jitter")
    assert named.func.preparation.transform is crop_flip_jitter


def test_a_whole_split_as_tasks():
    data = pictures(3, 4)
    apart = data._replace(offsets=np.array([8, 0, 4], np.int32), counts=np.array([4, 2, 0], np.int32))
    tasks = whole(apart, size=3, mean=0.5, std=[0.25])
    assert tasks.query.x.shape[:2] == (2, 3)
    rows = [8, 9, 10, 11, 0, 1]
    np.testing.assert_array_equal(tasks.query.y.ravel(), [0, 0, 0, 0, 1, 1])
    expected = (data.examples[rows] / np.float32(255) - 0.5) / 0.25
    np.testing.assert_allclose(tasks.query.x.reshape(6, *data.examples.shape[1:]), expected, atol=1e-6)
    with pytest.raises(ValueError, match="size=4 does not divide the 6 examples"):
        whole(apart, size=4)


def test_flat_batches_are_augmented_and_normalised():
    data = pictures(3, 4)
    plain, changed = (
        flat_batches(data, size=5, **options)(jax.random.key(0)).query
        for options in ({}, {"transform": lambda key, x: x + 1, "mean": 0.25, "std": 0.5})
    )
    np.testing.assert_array_equal(plain.y, changed.y)
    np.testing.assert_allclose(changed.x, (plain.x + 0.75) / 0.5, rtol=1e-6)


def test_own_sources_draw_through_fetch():
    def fetch(data, key, chosen, number):
        return data * jnp.broadcast_to(chosen[:, None, None], (chosen.shape[0], number, 1)).astype(
            jnp.float32
        )

    sampler = episodes_from(fetch, jnp.float32(10), classes=2, shape=(1,), way=2, shot=1, query=1)
    task = play(sampler, jax.random.key(0))
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
        ({"transform": "blur"}, "augmentation 'blur' is none of none"),
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
