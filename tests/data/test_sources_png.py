import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from source_helpers import encode, noise, one_line

from jmeta.data.errors import DataError
from jmeta.data.sources import png
from jmeta.data.sources.images import Decoding, decode
from jmeta.data.sources.png import check_png

UNCHANGED = Decoding(None, None)


def png_bytes(*chunks):
    """A PNG file of (kind, content), with right checksums."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks:
        parts.append(struct.pack(">I", len(content)) + kind + content)
        parts.append(struct.pack(">I", zlib.crc32(kind + content)))
    return b"".join(parts)


def header(width, height, depth=8, color=0, interlaced=0):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)


ROWS = noise(0, 6, 5)
PIXELS = b"".join(b"\0" + row.tobytes() for row in ROWS)
PACKED, END = zlib.compress(PIXELS), (b"IEND", b"")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (17, 3)])
def test_whole_files_pass(mode, size):
    image = Image.fromarray(noise(1, *size, 3))
    pixels = image.quantize(5) if mode == "P" else image.convert("L" if mode == "I;16" else mode)
    check_png(encode(np.asarray(pixels, np.uint16)) if mode == "I;16" else encode(pixels))


def test_an_interlaced_image_is_read_whole():
    passes = [ROWS[0::8, 0::8], ROWS[0::8, 4::8], ROWS[4::8, 0::4], ROWS[0::4, 2::4], ROWS[2::4, 0::2],
              ROWS[0::2, 1::2], ROWS[1::2]]  # fmt: skip
    pixels = b"".join(b"\0" + row.tobytes() for part in passes for row in part if row.size)
    raw = png_bytes(header(5, 6, interlaced=1), (b"IDAT", zlib.compress(pixels)), END)
    np.testing.assert_array_equal(decode("a", raw, UNCHANGED)[..., 0], ROWS)
    for wrong in (pixels[:-1], pixels + b"\0"):
        with one_line("image does not decode", "a"):
            decode(
                "a", png_bytes(header(5, 6, interlaced=1), (b"IDAT", zlib.compress(wrong)), END), UNCHANGED
            )


def test_pixels_in_many_pieces(monkeypatch):
    monkeypatch.setattr(png, "_PACKED", 7)
    monkeypatch.setattr(png, "_UNPACKED", 3)
    pieces = [(b"IDAT", PACKED[start : start + 10]) for start in range(0, len(PACKED), 10)]
    check_png(png_bytes(header(5, 6), *pieces, END))
    black = zlib.compress(bytes(6 * 6))
    check_png(png_bytes(header(5, 6), (b"IDAT", black), END))
    with pytest.raises(ValueError, match="header says 30 bytes of pixels, and it has more"):
        check_png(png_bytes(header(5, 5), (b"IDAT", black), END))


LIES = {
    "fewer rows": (png_bytes(header(5, 5), (b"IDAT", PACKED), END), "30 bytes of pixels, and it has more"),
    "fewer columns": (png_bytes(header(4, 6), (b"IDAT", PACKED), END), "30 bytes of pixels, and it has more"),
    "more rows": (png_bytes(header(5, 7), (b"IDAT", PACKED), END), "truncated"),
    "fewer bits": (png_bytes(header(5, 6, depth=4), (b"IDAT", PACKED), END), "24 bytes of pixels"),
    "pixels without a checksum": (png_bytes(header(5, 6), (b"IDAT", PACKED[:-4]), END), "truncated"),
    "pixels of another checksum": (png_bytes(header(5, 6), (b"IDAT", PACKED[:-4] + b"abcd"), END), "check"),
    "no end": (png_bytes(header(5, 6), (b"IDAT", PACKED)), "truncated"),
    "two headers": (png_bytes(header(5, 6), header(5, 6), (b"IDAT", PACKED), END), "2 headers"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_files_that_contradict_themselves(name):
    raw, message = LIES[name]
    with one_line("image does not decode", message, "a/file"):
        decode("a/file", raw, UNCHANGED)


def test_no_damaged_byte_changes_pixels():
    raw = png_bytes(header(5, 6), (b"IDAT", PACKED[:20]), (b"IDAT", PACKED[20:]), (b"tIME", bytes(7)), END)
    np.testing.assert_array_equal(decode("a", raw, UNCHANGED)[..., 0], ROWS)
    for place in range(len(raw) - 12):
        damaged = bytearray(raw)
        damaged[place] ^= 0xFF
        with pytest.raises(DataError, match="image does not decode"):
            decode("a", bytes(damaged), UNCHANGED)
        with pytest.raises(DataError, match="image does not decode"):
            decode("a", raw[:place], UNCHANGED)
