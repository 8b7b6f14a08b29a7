import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.data.episodes import sample_tasks
from jmeta.data.sources import glyphs

fetch = jax.jit(glyphs._fetch, static_argnums=3)
step_tasks = jax.jit(sample_tasks, static_argnums=3)


@pytest.fixture(scope="module")
def images():
    """Images [split, class, drawer, 28, 28] of the first 30 classes of each split."""
    chosen = jnp.arange(30, dtype=jnp.int32)
    return np.stack(
        [
            fetch((np.uint32(0), np.uint32(split)), jax.random.key(split), chosen, 10)[..., 0]
            for split in range(3)
        ]
    )


def test_images_are_ink_on_paper(images):
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    ink = images.mean((3, 4))
    assert 0.06 < ink.mean() < 0.2
    assert (ink > 0.01).all(), "no image is empty"
    edge = np.concatenate([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], axis=-1)
    assert edge.mean() < 0.1 * images.mean(), "characters lie on the page"


def test_no_two_drawers_draw_alike_but_all_draw_the_same_character(images):
    centered = images - images.mean((1, 2), keepdims=True)
    blurred = centered.reshape(3, 30, 10, 14, 2, 14, 2).mean((4, 6)).reshape(3, 30, 10, -1)
    own = np.square(np.diff(blurred, axis=2)).sum(-1)
    others = np.square(np.diff(blurred, axis=1)).sum(-1)
    assert own.min() > 0.1
    assert own.mean() < 0.9 * others.mean()


@pytest.fixture(scope="module")
def characters():
    """The characters of the first 1,000 classes of each split, [3000]."""

    def numbered(number):
        return glyphs.character(jax.random.fold_in(jax.random.key(0), number))

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(numbered))(jnp.arange(3000, dtype=jnp.uint32)))


def test_splits_and_classes_hold_different_characters(characters):
    assert len(np.unique(characters.points.reshape(3000, -1), axis=0)) == 3000


def test_characters_have_two_to_four_strokes_that_fill_the_page(characters):
    assert characters.points.dtype == np.float32
    shares = np.bincount(characters.present.sum(1).astype(int), minlength=5) / 3000
    np.testing.assert_allclose(shares, [0, 0, 0.3, 0.4, 0.3], atol=0.04)
    np.testing.assert_allclose(np.abs(characters.points[characters.present > 0]).max(), 0.7, rtol=1e-4)


def test_nearest_neighbor_on_pixels_is_far_from_a_learner():
    """About 48 %, where Conv-4 prototypes pass 75 % after their first 100 updates of four tasks."""

    def nearest(task):
        support, query = (part.x.reshape(part.x.shape[0], -1) for part in task)
        distance = jnp.square(query[:, None] - support[None]).sum(-1)
        return (task.support.y[distance.argmin(1)] == task.query.y).mean()

    sampler = glyphs.glyph_dataset().episodes("test", way=5, shot=1, query=5)
    tasks = step_tasks(sampler, jax.random.key(0), 0, 200)
    assert 0.43 < float(jax.jit(jax.vmap(nearest))(tasks).mean()) < 0.53


def test_a_sampler_draws_fresh_characters_from_the_key_and_the_seed():
    def tasks(seed=0, split="train", step=0):
        sampler = glyphs.glyph_dataset(seed=seed).episodes(split, way=5, shot=1, query=5)
        return np.asarray(step_tasks(sampler, jax.random.key(0), step, 200).support.x)[:3]

    first = tasks()
    np.testing.assert_array_equal(first, tasks())
    for other in (tasks(seed=1), tasks(split="test"), tasks(step=1)):
        assert np.abs(other - first).mean() > 0.01


def test_episodes_take_the_options_of_every_data_set():
    sampler = glyphs.glyph_dataset().episodes("train", way=3, shot=2, query=1, rotations=True, min_way=2)
    task = jax.eval_shape(sampler, jax.random.key(0))
    assert task.support.x.shape == (6, 28, 28, 1)
    assert task.support.x.dtype == np.float32
    assert task.support.mask.shape == (6,)


@pytest.fixture(scope="module")
def pool():
    return glyphs.glyph_dataset(classes=120, drawers=10)


def test_a_pool_is_a_data_set_of_fixed_images(pool):
    assert pool.info.shape == (28, 28, 1)
    train, test = pool.splits["train"], pool.splits["test"]
    assert train.examples.shape == (1200, 28, 28, 1)
    assert train.examples.dtype == np.uint8
    np.testing.assert_array_equal(train.counts, np.full(120, 10))
    np.testing.assert_array_equal(train.offsets, 10 * np.arange(120))
    images = np.concatenate([train.examples, test.examples]).reshape(2400, -1)
    assert (images.max(1) > 200).all()
    assert len(np.unique(images, axis=0)) == 2400
    with pytest.raises(ValueError, match="class 0 has 10 examples"):
        pool.episodes("test", way=5, shot=10, query=1)


def test_a_class_of_the_pool_is_the_character_drawn_afresh(pool):
    fixed = pool.splits["train"].examples[:300].reshape(30, 10, -1) / 255
    chosen = jnp.arange(30, dtype=jnp.int32)
    fresh = fetch((np.uint32(0), np.uint32(0)), jax.random.key(9), chosen, 10).reshape(30, 10, -1)
    distance = np.square(fixed.mean(1)[:, None] - np.asarray(fresh).mean(1)[None]).sum(-1)
    assert (distance.argmin(1) == np.arange(30)).mean() > 0.9


@pytest.mark.parametrize("options", [{"classes": 0}, {"classes": 5, "drawers": 0}])
def test_impossible_pools_are_refused(options):
    with pytest.raises(ValueError, match="is 0; expected at least 1"):
        glyphs.glyph_dataset(**options)
