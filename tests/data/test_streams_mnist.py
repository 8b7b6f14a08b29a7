import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jmeta.data.class_dataset import from_arrays
from jmeta.data.streams import mnist


def source(examples=60, tests=20):
    random = np.random.default_rng(0)
    labels = [np.arange(count, dtype=np.uint8) % 10 for count in (examples, tests)]
    pixels = [random.integers(0, 256, (count, 28, 28, 1), np.uint8) for count in (examples, tests)]
    return pixels, labels, mnist.pixel_rows(*(from_arrays(x, y) for x, y in zip(pixels, labels)))


def test_images_keep_their_labels():
    pixels, labels, data = source()
    pairs = {(x.tobytes(), y) for x, y in zip(np.asarray(data.train_x), data.train_y.tolist())}
    assert pairs == {(x.tobytes(), y) for x, y in zip(pixels[0], labels[0].tolist())}


@pytest.mark.parametrize("angle", [0.0, 4.3, 31.7, 90.0, 123.4, 179.2])
def test_a_rotation_is_pillows(angle):
    image = np.random.default_rng(1).integers(1, 256, (28, 28), np.uint8)
    ours = mnist.transform(jnp.asarray(image.reshape(-1)), mnist.rotation_map(angle, 28))
    theirs = np.asarray(Image.fromarray(image).rotate(angle))
    np.testing.assert_array_equal(np.round(np.asarray(ours) * 255).reshape(28, 28), theirs)


def test_rotations_lie_in_their_own_parts():
    # the pixel right of the center moves up as the angle grows, so the order of angles can be read off
    maps = mnist.rotations(jax.random.key(3), tasks=20)
    uniform = jax.random.uniform(jax.random.key(3), (20,))
    for task in (0, 7, 19):
        np.testing.assert_array_equal(maps[task], mnist.rotation_map((task + uniform[task]) * 9.0, 28))
    with pytest.raises(ValueError, match="pixels=783; expected a square"):
        mnist.rotations(jax.random.key(0), pixels=783)


def test_permutations_are_permutations_and_differ():
    maps = np.asarray(mnist.permutations(jax.random.key(0), tasks=5))
    assert (np.sort(maps, axis=1) == np.arange(784)).all()
    assert len({row.tobytes() for row in maps}) == 5 and (maps[0] != np.arange(784)).any()


def test_a_task_shows_its_own_sample_in_every_pass():
    maps = mnist.permutations(jax.random.key(0), tasks=3)
    stream = mnist.task_stream(jax.random.key(1), maps, 60, samples=20, batch=5, passes=3)
    rows = np.asarray(stream.rows).reshape(3, 3, 20)
    assert stream.first_pass.tolist() == [True] * 4 + [False] * 8
    for task in rows:
        assert all(sorted(order) == sorted(task[0]) and len(set(order)) == 20 for order in task)
        assert len({order.tobytes() for order in task}) == 3
    assert set(rows[0, 0]) != set(rows[1, 0])


def test_samples_are_uniform_over_the_images():
    maps = mnist.permutations(jax.random.key(0), tasks=200, pixels=4)
    rows = mnist.task_stream(jax.random.key(1), maps, 50, samples=10, batch=10).rows
    counts = np.bincount(np.asarray(rows).ravel(), minlength=50)
    assert counts.sum() == 2000 and ((counts - 40) ** 2 / 32).sum() < 50 + 4 * 10  # 40 expected, variance 32


def test_batches_are_the_transformed_images():
    _, _, data = source()
    maps = mnist.permutations(jax.random.key(0), tasks=2)
    stream = mnist.task_stream(jax.random.key(1), maps, 60, samples=20, batch=5)
    batch = mnist.batch_at(data, stream, 1, 2)
    rows = np.asarray(stream.rows[1, 2])
    expected = np.asarray(data.train_x)[rows][:, np.asarray(maps[1])] / np.float32(255)
    np.testing.assert_allclose(batch.x, expected, rtol=1e-6)
    np.testing.assert_array_equal(batch.y, np.asarray(data.train_y)[rows])
    tested = mnist.test_rows(data, stream, 1, jnp.arange(4))
    np.testing.assert_allclose(tested.x, np.asarray(data.test_x)[:4][:, maps[1]] / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"samples": 61, "batch": 1}, "samples=61; expected 1 to 60"),
        ({"samples": 20, "batch": 3}, "20 images do not divide into batches of 3"),
        ({"samples": 20, "batch": 5, "passes": 0}, "passes=0"),
    ],
)
def test_sizes_that_cannot_be(sizes, message):
    maps = mnist.permutations(jax.random.key(0), tasks=2)
    with pytest.raises(ValueError, match=message):
        mnist.task_stream(jax.random.key(1), maps, 60, **sizes)


def test_a_stream_of_other_images():
    """Concrete rows, tasks and steps are refused; traced ones have the label -1."""
    _, _, data = source()
    maps = mnist.permutations(jax.random.key(0), tasks=2)
    stream = mnist.task_stream(jax.random.key(1), maps, 4000, samples=50, batch=50)
    with pytest.raises(ValueError, match=r"rows run from \d+ to \d+; expected 0..59, there are 60 train"):
        mnist.require_fit(data, stream)
    y = jax.jit(lambda stream: mnist.batch_at(data, stream, 0, 0))(stream).y
    np.testing.assert_array_equal(y >= 0, np.asarray(stream.rows[0, 0]) < 60)
    stream = mnist.task_stream(jax.random.key(1), maps, 60, samples=20, batch=5)
    mnist.require_fit(data, stream)
    at = jax.jit(lambda task, step: mnist.batch_at(data, stream, task, step).y)
    test_at = jax.jit(lambda task, rows: mnist.test_rows(data, stream, task, rows).y)
    for task, step in ((2, 0), (0, 4)):
        assert (at(task, step) == -1).all()
        with pytest.raises(ValueError, match=f"is {max(task, step)}; expected 0..{1 if task else 3}"):
            mnist.batch_at(data, stream, task, step)
    assert test_at(1, jnp.array([0, 19, 20])).tolist() == [*data.test_y[jnp.array([0, 19])].tolist(), -1]
    assert (test_at(2, jnp.arange(3)) == -1).all()
    with pytest.raises(ValueError, match="rows is 20; expected 0..19, there are 20 test images"):
        mnist.test_rows(data, stream, 0, jnp.array([20]))


def test_maps_and_splits_of_other_sizes():
    pixels, labels, data = source()
    stream = mnist.task_stream(
        jax.random.key(1), mnist.permutations(jax.random.key(0), pixels=100), 60, samples=5, batch=5
    )
    with pytest.raises(ValueError, match="maps of 100 pixels for images of 784"):
        mnist.batch_at(data, stream, 0, 0)
    train, test = (from_arrays(x, y) for x, y in zip(pixels, labels))
    small = test._replace(examples=test.examples[:, ::2, ::2])
    with pytest.raises(ValueError, match=r"images \[28, 28, 1\] to train and 10 of \[14, 14, 1\] to test"):
        mnist.pixel_rows(train, small)
    fewer = test._replace(offsets=test.offsets[:9], counts=test.counts[:9])
    with pytest.raises(ValueError, match="10 classes .* to train and 9 of"):
        mnist.pixel_rows(train, fewer)
    halves = train._replace(offsets=train.offsets[5:], counts=train.counts[5:])
    data = mnist.pixel_rows(halves, halves)  # whose rows are not the first ones
    np.testing.assert_array_equal(data.train_x[0], train.examples[train.offsets[5]].ravel())
    with pytest.raises(ValueError, match="permutations: tasks=0"):
        mnist.permutations(jax.random.key(0), tasks=0)
