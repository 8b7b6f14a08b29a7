import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from source_helpers import encode, noise, one_line

from jmeta.data.sources.images import Decoding, ImageClasses, decode, load_images, take

UNCHANGED = Decoding(None, None)


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def files_of(*raws):
    return {"a": [(f"image {index}", lambda raw=raw: raw) for index, raw in enumerate(raws)]}


@pytest.mark.parametrize("raw", [b"", b"no image", encode(noise(0, 30, 30))[:200]])
def test_undecodable_image_is_named(raw):
    with one_line("image does not decode", "image 1"):
        load_images(files_of(encode(noise(0, 30, 30)), raw), UNCHANGED)


def test_gray_images_of_16_bits_are_rounded_to_8():
    deep = np.array([[0, 128, 129, 65535]], np.uint16)
    expected = [[0, 0, 1, 255]]
    for file in (encode(deep), encode(deep, "TIFF"), encode(deep, "PPM")):
        np.testing.assert_array_equal(decode("a", file, UNCHANGED)[..., 0], expected)
    inverted = saved(Image.fromarray(deep), "TIFF", tiffinfo={262: 0})  # 0 is white
    np.testing.assert_array_equal(decode("a", inverted, UNCHANGED)[..., 0], 255 - np.array(expected))
    clear = saved(Image.fromarray(deep), "PNG", transparency=129)
    np.testing.assert_array_equal(decode("a", clear, UNCHANGED)[..., 0], [[0, 0, 255, 255]])
    with one_line("32 bits, mode F", "image 0"):
        load_images(files_of(saved(Image.fromarray(deep.astype(np.float32)), "TIFF")), UNCHANGED)


def test_mixed_sizes_are_refused():
    with one_line("images differ in size (4x4 and 4x5)", "image 0", "image 1", "image_size=84"):
        load_images(files_of(encode(noise(0, 4, 4)), encode(noise(1, 4, 5))), UNCHANGED)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_gray_among_color_is_read_once_as_color(order):
    pixels = [noise(0, 4, 4), noise(1, 4, 4), noise(2, 4, 4, 3)]
    reads = []

    def reader(index):
        return lambda: reads.append(index) or encode(pixels[index])

    files = {"a": [(f"image {index}", reader(index)) for index in order]}
    images = load_images(files, UNCHANGED)
    assert reads == list(order)
    shown = {np.broadcast_to(image.reshape(4, 4, -1), (4, 4, 3)).tobytes() for image in pixels}
    assert {row.tobytes() for row in images.examples} == shown
    assert images.examples.shape == (3, 4, 4, 3)
    assert images.notes == ("2 of 3 images are gray and the others in color: color=auto reads all as RGB",)
    for color, channels in ((True, 3), (False, 1)):
        chosen = load_images(files, Decoding(6, color))
        assert chosen.examples.shape == (3, 6, 6, channels)
        assert chosen.notes == ()


@pytest.mark.parametrize("pixels", [noise(0, 4, 4), noise(0, 4, 4, 3)])
def test_alike_images_keep_their_channels_without_a_note(pixels):
    images = load_images(files_of(encode(pixels)), UNCHANGED)
    np.testing.assert_array_equal(images.examples[0], pixels.reshape(4, 4, -1))
    assert images.notes == ()


STROKES = np.array([[0, 0, 40]], np.uint8)
ALPHA = np.array([[255, 0, 128]], np.uint8)


def palette():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 0, 1, 40, 40, 40])
    return image


@pytest.mark.parametrize(
    ("image", "format", "options"),
    [
        (Image.fromarray(np.dstack([STROKES, ALPHA]), "LA"), "PNG", {}),
        (Image.fromarray(np.dstack([STROKES] * 3 + [ALPHA])), "PNG", {}),
        (Image.fromarray(np.dstack([STROKES] * 3 + [ALPHA])), "TIFF", {}),
        (Image.fromarray(np.dstack([STROKES] * 3 + [ALPHA])), "WEBP", {"lossless": True}),
        (palette(), "PNG", {"transparency": bytes(ALPHA[0])}),
    ],
)
@pytest.mark.parametrize("color", [None, True, False])
def test_transparency_is_composed_over_white(image, format, options, color):
    image = decode("a", saved(image, format, **options), Decoding(None, color))
    expected = np.array([0, 255, 40 * 128 / 255 + 255 - 128])
    np.testing.assert_allclose(image[0], np.broadcast_to(expected[:, None], image[0].shape), atol=1)


@pytest.mark.parametrize(
    ("image", "format", "transparency"),
    [
        (Image.fromarray(np.array([[7, 0, 9]], np.uint8)), "PNG", 0),
        (Image.fromarray(np.array([[[7] * 3, [0] * 3, [9] * 3]], np.uint8)), "PNG", (0, 0, 0)),
        (Image.fromarray(np.array([[7, 0, 9]], np.uint8)), "GIF", 0),
    ],
)
def test_one_transparent_value_is_white(image, format, transparency):
    raw = saved(image, format, transparency=transparency)
    np.testing.assert_array_equal(decode("a", raw, UNCHANGED)[0, :, 0], [7, 255, 9])


def test_one_transparent_value_of_16_bits_a_channel():
    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    pixels = np.array([[[4660, 22136, 39612], [257, 514, 771]]], ">u2")
    parts = (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"tRNS", pixels[0, 0].tobytes())
    parts += (b"IDAT", zlib.compress(b"\0" + pixels.tobytes())), (b"IEND", b"")
    raw = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    np.testing.assert_array_equal(decode("a", raw, UNCHANGED), [[[255, 255, 255], [1, 2, 3]]])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(format, orientation):
    upright = np.full((16, 24), 255, np.uint8)
    upright[:8, :8], upright[:8, 8:16] = 0, 128
    stored = {  # the EXIF standard: where row 0 and column 0 of the file are shown
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "MPO": {"save_all": True}}.get(format, {})
    raw = saved(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif, **options)
    np.testing.assert_allclose(decode("a", raw, Decoding(None, False))[..., 0], upright, atol=3)


def test_damaged_metadata_do_not_make_a_photograph_unreadable():
    raw = saved(Image.fromarray(noise(0, 8, 8)), "JPEG", exif=b"Exif\0\0garbage")
    assert decode("a", raw, UNCHANGED).shape == (8, 8, 1)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_inks_are_shown_as_colors(format):
    red = Image.new("RGB", (8, 8), (250, 0, 0))
    shown = decode("a", saved(red.convert("CMYK"), format), UNCHANGED)
    np.testing.assert_allclose(shown, np.asarray(red), atol=3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_read_and_a_note_says_so(format):
    frames = [Image.fromarray(np.full((4, 4, 3), shade, np.uint8)) for shade in (10, 200)]
    options = {"lossless": True} if format == "WEBP" else {}
    moving = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    images = load_images(files_of(moving, saved(frames[1], format, **options)), UNCHANGED)
    assert images.examples[:, 0, 0].tolist() == [[10] * 3, [200] * 3]
    assert images.notes == ("images of several frames or pages, of which the first is read: 1",)


def test_many_pixels_are_read_up_to_a_limit(monkeypatch):
    raw = saved(Image.new("1", (100, 90)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8000)  # above it Pillow warns, above twice that it raises
    assert decode("a", raw, Decoding(4, None)).shape == (4, 4, 1)
    monkeypatch.setattr("jmeta.data.sources.images.MOST_PIXELS", 8999)
    with one_line("it has 9,000 pixels; at most 8,999 are read", "image 0"):
        load_images(files_of(raw), UNCHANGED)


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
