import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.data.class_dataset import from_arrays
from jmeta.data.episodes import episodes
from jmeta.data.preparation import preparation, prepare_examples


def test_rows_are_grouped_by_class_in_their_order():
    labels = np.array([7, 3, 7, 5, 3, 7])
    examples = np.stack([labels, np.arange(6)], axis=1).astype(np.float64)
    dataset = from_arrays(examples, labels)
    np.testing.assert_array_equal(dataset.counts, [2, 1, 3])
    np.testing.assert_array_equal(dataset.offsets, [0, 2, 3])
    np.testing.assert_array_equal(dataset.examples, [[3, 1], [3, 4], [5, 3], [7, 0], [7, 2], [7, 5]])
    assert [leaf.dtype for leaf in dataset] == [np.float32, np.int32, np.int32]


def test_labels_may_be_names():
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    dataset = from_arrays(images, np.array(["b", "a", "b"]))
    np.testing.assert_array_equal(dataset.examples.ravel(), [1, 0, 2])
    assert dataset.examples.dtype == np.uint8


@pytest.mark.parametrize(
    "examples, labels, message",
    [
        (np.zeros((3, 2)), [0, 1], "labels of shape .2,. for 3 examples"),
        (np.zeros((2, 2)), [0.5, 1.0], "labels of type float64"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], "no channel axis"),
        (np.zeros((2, 4), np.int64), [0, 1], "examples of type int64"),
        (np.array([[1.0], [np.nan]]), [0, 1], "NaN"),
        (np.zeros((0, 4)), [], "at least one"),
        (np.zeros(3), [0, 1, 2], "expected at least one, as images"),
        (np.array([[1e300], [1.0]]), [0, 1], "float64 up to 1e.300 are infinite as float32"),
        (np.array([[-1e39], [1.0]]), [0, 1], "up to 1e.39 are infinite as float32"),
        (np.ma.array([[1.0], [2.0]], mask=[[0], [1]]), [0, 1], "1 values of the examples are masked"),
        ([np.ma.array([1.0, 2.0], mask=[1, 1]), np.zeros(2)], [0, 1], "2 values of the examples are masked"),
        (np.zeros((2, 1)), np.ma.array([0, 1], mask=[0, 1]), "1 values of the labels are masked"),
        (np.zeros((2, 1)), [0, np.ma.masked], "1 values of the labels are masked"),
        (np.zeros((2, 3, 8, 9), np.uint8), [0, 1], "channel first; give .*transpose.0, 2, 3, 1."),
        (np.zeros((2, 1, 28, 28)), [0, 1], "channel first"),
    ],
)
def test_unfit_arrays_are_refused(examples, labels, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(examples, labels)


@pytest.mark.parametrize(
    "shape", [(2, 5, 5, 64), (2, 1, 1, 640), (2, 3, 3, 3), (2, 28, 28, 1), (2, 64, 5, 5)]
)
def test_images_and_maps_of_features_with_the_channel_last(shape):
    assert from_arrays(np.ones(shape), np.arange(2)).examples.shape == shape


def test_a_mask_that_masks_nothing_is_no_obstacle():
    examples = np.ma.array([[1.0], [2.0]], mask=False)
    np.testing.assert_array_equal(from_arrays(examples, [0, 1]).examples, [[1], [2]])


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 2, 2, 1), (4, 2, 2, 3)])
def test_bytes_that_are_no_images_are_not_divided(shape):
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    expected = np.sort(values.ravel()) / (255 if len(shape) == 4 else 1)
    dataset = from_arrays(values, np.array([0, 0, 1, 1]))
    assert dataset.examples.dtype == (np.uint8 if len(shape) == 4 else np.float32)
    sampler = episodes(dataset, way=2, shot=1, query=1)
    drawn = np.concatenate([batch.x.ravel() for batch in sampler(jax.random.key(0))])
    prepared = prepare_examples(preparation(), jax.random.key(0), jnp.asarray(values))
    for x in (drawn, prepared):
        assert x.dtype == np.float32
        np.testing.assert_allclose(np.sort(x.ravel()), expected, rtol=1e-6)
