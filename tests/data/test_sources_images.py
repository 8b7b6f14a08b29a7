import numpy as np
import pytest
from source_helpers import encode, noise, one_line

from jmeta.data.sources.images import Decoding, ImageClasses, load_images, take

UNCHANGED = Decoding(None, None)


def files_of(*raws):
    return {"a": [(f"image {index}", lambda raw=raw: raw) for index, raw in enumerate(raws)]}


@pytest.mark.parametrize("raw", [b"", b"no image", encode(noise(0, 30, 30))[:200]])
def test_undecodable_image_is_named(raw):
    with one_line("image does not decode", "image 1"):
        load_images(files_of(encode(noise(0, 30, 30)), raw), UNCHANGED)


def test_images_of_more_than_8_bits_are_refused():
    with one_line("more than 8 bits", "image 0"):
        load_images(files_of(encode(noise(0, 4, 4).astype(np.uint16))), UNCHANGED)


def test_mixed_sizes_and_channels():
    with one_line("images differ in size (4x4 and 4x5)", "image 0", "image 1", "image size"):
        load_images(files_of(encode(noise(0, 4, 4)), encode(noise(1, 4, 5))), UNCHANGED)
    mixed = files_of(encode(noise(0, 4, 4)), encode(noise(1, 4, 4, 3)))
    with one_line("gray and color images are mixed", "color=True"):
        load_images(mixed, UNCHANGED)
    assert load_images(mixed, Decoding(None, True)).examples.shape == (2, 4, 4, 3)
    assert load_images(mixed, Decoding(6, False)).examples.shape == (2, 6, 6, 1)


def test_one_bit_images_have_shades_after_resizing():
    checkers = np.indices((40, 40)).sum(0) // 5 % 2 * 255
    checkers = checkers.astype(np.uint8)
    images = load_images(files_of(encode(checkers, mode="1")), Decoding(28, False, invert=True))
    assert images.examples.shape == (1, 28, 28, 1)
    assert len(np.unique(images.examples)) > 2
    full = load_images(files_of(encode(checkers, mode="1")), Decoding(None, False, invert=True))
    np.testing.assert_array_equal(full.examples[0, ..., 0], 255 - checkers)


def test_rows_do_not_depend_on_the_order_of_the_files():
    raws = [encode(noise(seed, 5, 5)) for seed in range(6)]
    first, second = load_images(files_of(*raws), UNCHANGED), load_images(files_of(*raws[::-1]), UNCHANGED)
    np.testing.assert_array_equal(first.examples, second.examples)
    assert {row.tobytes() for row in first.examples} == {noise(seed, 5, 5).tobytes() for seed in range(6)}


def test_take_by_class():
    rows = np.arange(7, dtype=np.uint8)[:, None, None, None]
    images = ImageClasses(rows, ("a", "b", "c"), (2, 4, 1))
    taken = take(images, ("c", "a"))
    assert taken.examples.ravel().tolist() == [6, 0, 1]
    assert taken.offsets.tolist() == [0, 1]
    assert taken.counts.tolist() == [1, 2]
    adjacent = take(images, ("b", "c"))
    assert adjacent.examples.ravel().tolist() == [2, 3, 4, 5, 6]
    assert np.shares_memory(adjacent.examples, rows)
