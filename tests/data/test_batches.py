import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draw_helpers import pictures

from jmeta.data.batches import full_batches, supervised_batches
from jmeta.data.class_dataset import from_arrays


def test_a_full_split_as_tasks():
    data = pictures(3, 4)
    apart = data._replace(offsets=np.array([8, 0, 4], np.int32), counts=np.array([4, 2, 0], np.int32))
    tasks = full_batches(apart, size=3, mean=0.5, std=[0.25])
    assert tasks.query.x.shape[:2] == (2, 3)
    rows = [8, 9, 10, 11, 0, 1]
    np.testing.assert_array_equal(tasks.query.y.ravel(), [0, 0, 0, 0, 1, 1])
    expected = (data.examples[rows] / np.float32(255) - 0.5) / 0.25
    np.testing.assert_allclose(tasks.query.x.reshape(6, *data.examples.shape[1:]), expected, atol=1e-6)
    with pytest.raises(ValueError, match="size=4 does not divide the 6 examples"):
        full_batches(apart, size=4)


def test_supervised_batches_are_augmented_and_normalized():
    data = pictures(3, 4)
    plain, changed = (
        supervised_batches(data, size=5, **options)(jax.random.key(0)).query
        for options in ({}, {"transform": lambda key, x: x + 1, "mean": 0.25, "std": 0.5})
    )
    np.testing.assert_array_equal(plain.y, changed.y)
    np.testing.assert_allclose(changed.x, (plain.x + 0.75) / 0.5, rtol=1e-6)


def test_supervised_batches_draw_every_example_with_its_class():
    data = from_arrays(np.arange(6, dtype=np.float32)[:, None], np.array([0, 0, 0, 1, 1, 2]))
    tasks = jax.vmap(supervised_batches(data, size=50))(jax.random.split(jax.random.key(0), 40))
    x, y = np.asarray(tasks.query.x).reshape(-1).astype(int), np.asarray(tasks.query.y).reshape(-1)
    assert (y == np.array([0, 0, 0, 1, 1, 2])[x]).all()
    apart = data._replace(offsets=data.offsets[[2, 0]], counts=data.counts[[2, 0]])  # of a split
    task = supervised_batches(apart, size=64)(jax.random.key(0))
    assert (task.query.y == jnp.where(task.query.x[:, 0] == 5, 0, 1)).all() and task.query.x.max() == 5
    assert sorted(set(task.query.x[:, 0].tolist())) == [0, 1, 2, 5]
    counts = np.bincount(x, minlength=6)
    assert ((counts - 2000 / 6) ** 2 / (2000 / 6)).sum() < 20.5  # chi-squared, 5 degrees, p = 0.001
    with pytest.raises(ValueError, match="at least 1"):
        supervised_batches(data, size=0)


@pytest.mark.parametrize("names", [list("abc"), [10, 20, 30]])
def test_a_part_that_lacks_a_class_keeps_the_labels_of_the_others(names):
    x = np.arange(5, dtype=np.float32)[:, None]
    part = from_arrays(x, np.array([names[index] for index in (2, 0, 2, 0, 2)]), classes=names)
    assert (part.counts.tolist(), part.offsets.tolist()) == ([2, 0, 3], [0, 2, 2])
    whole = full_batches(part, size=5).query
    assert whole.y.tolist() == [[0, 0, 2, 2, 2]]
    assert whole.x.ravel().tolist() == [1, 3, 0, 2, 4]
    drawn = supervised_batches(part, size=64)(jax.random.key(0)).query
    assert {(int(x), int(y)) for x, y in zip(drawn.x[:, 0], drawn.y)} == {
        (1, 0),
        (3, 0),
        (0, 2),
        (2, 2),
        (4, 2),
    }
    with pytest.raises(ValueError, match="is not in `classes`; expected one of the 2 classes"):
        from_arrays(x, np.array([names[2]] * 5), classes=names[:2])
    with pytest.raises(ValueError, match="name each once"):
        from_arrays(x, np.array([names[0]] * 5), classes=[*names, names[0]])
