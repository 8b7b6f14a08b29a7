"""The length of uncompressed pixels, which files state beside their size and Pillow does not compare."""

from __future__ import annotations

from typing import Any

from PIL import Image

_PPM_BITS = {b"P4": 1, b"P5": 8, b"P6": 24}  # of a pixel; twice as many if the largest value is above 255
_BITS, _SAMPLES, _COMPRESSION, _COUNTS = 258, 277, 259, 279  # TIFF tags; the last is of the bytes of strips


def check_uncompressed(image: Image.Image, raw: bytes) -> None:
    """Check that a BMP, TIFF or PPM file, opened and not yet loaded, has no more pixels than its size says.

    `raw` is the file. Raises ValueError if there is at least a row more, and the file states so, which in PPM
    its length does. Of compressed pixels nothing is known before they are unpacked.
    """
    stated = {"BMP": _bmp, "TIFF": _tiff, "PPM": _ppm}.get(image.format or "")
    if stated is None:
        return
    bits, length = stated(image, raw)
    row = -(-image.width * bits // 8)
    if bits and length >= image.height * row + max(row, 1) and length <= len(raw):
        raise ValueError(f"its header says {image.height * row:,} bytes of pixels, and it has {length:,}")


def _bmp(image: Any, raw: bytes) -> tuple[int, int]:
    """Return the bits of a pixel, padding among them, and the stated number of bytes; 0 for none stated."""
    decoder, _, start, arguments = image.tile[0]
    length = int.from_bytes(raw[34:38], "little")
    if decoder != "raw" or start + length > len(raw):
        return 0, 0
    return -(-8 * arguments[1] // image.width), length


def _tiff(image: Any, raw: bytes) -> tuple[int, int]:
    tags = image.tag_v2
    if tags.get(_COMPRESSION, 1) != 1 or _COUNTS not in tags:
        return 0, 0
    bits = tags.get(_BITS, (1,))
    return sum(bits) if len(bits) > 1 else bits[0] * tags.get(_SAMPLES, 1), sum(tags[_COUNTS])


def _ppm(image: Any, raw: bytes) -> tuple[int, int]:
    _, _, start, arguments = image.tile[0]
    rest = raw[start:]
    deep = arguments == "I;16B" or (isinstance(arguments, tuple) and arguments[1] > 255)
    return _PPM_BITS.get(raw[:2], 0) * (1 + deep), len(rest)
