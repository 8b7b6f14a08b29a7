import numpy as np
import pytest

from jmeta.data.class_dataset import from_arrays


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
    ],
)
def test_unfit_arrays_are_refused(examples, labels, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(examples, labels)
