import io
import struct

import numpy as np
import pytest
from PIL import Image
from source_helpers import encode, noise, one_line

from jmeta.data.sources.images import Decoding, decode
from jmeta.data.sources.uncompressed import check_uncompressed

PIXELS = noise(0, 12, 10, 3)


def with_fewer_rows(raw, format):
    """The file with 6 for the 12 rows of its header."""
    if format == "BMP":
        return raw[:22] + struct.pack("<i", 6) + raw[26:]
    if format == "PPM":
        return raw.replace(b"10 12", b"10 6", 1)
    tag = struct.pack("<HHI", 257, 4, 1)  # the number of rows, of type 4, one value
    assert tag in raw
    return raw.replace(tag + struct.pack("<I", 12), tag + struct.pack("<I", 6))


@pytest.mark.parametrize("format", ["BMP", "PPM", "TIFF"])
@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., 0]])
def test_more_pixels_than_the_size_says(format, pixels):
    raw = encode(pixels, format)
    np.testing.assert_array_equal(np.squeeze(decode("a", raw, Decoding(None, None))), pixels)
    with one_line("bytes of pixels, and it has", "a/file"):
        decode("a/file", with_fewer_rows(raw, format), Decoding(None, None))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F"])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (17, 3)])
def test_whole_files_pass(mode, size):
    image = Image.fromarray(noise(1, *size))
    image = image.quantize(5) if mode == "P" else image.convert(mode)
    formats = {"BMP": {}, "PPM": {}, "TIFF": {"strip_size": 64}, "TIF": {"compression": "packbits"}}
    for format, options in formats.items():
        buffer = io.BytesIO()
        try:
            image.save(buffer, format.ljust(4, "F") if format == "TIF" else format, **options)
        except OSError:  # a mode that the format does not have
            continue
        with Image.open(buffer) as opened:
            check_uncompressed(opened, buffer.getvalue())


@pytest.mark.parametrize("largest", [1, 200, 255, 256, 65535])
@pytest.mark.parametrize(("magic", "channels"), [(b"P5", 1), (b"P6", 3)])
def test_values_of_ppm_have_one_byte_or_two(largest, magic, channels):
    pixels = bytes(5 * 6 * channels * (1 + (largest > 255)))
    for rows, fits in ((6, True), (5, False)):
        raw = magic + b"\n5 %d\n%d\n" % (rows, largest) + pixels
        with Image.open(io.BytesIO(raw)) as image:
            if fits:
                check_uncompressed(image, raw + b"\n")
            else:
                with pytest.raises(ValueError, match="and it has"):
                    check_uncompressed(image, raw)
