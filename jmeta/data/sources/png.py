"""The checks of PNG files that Pillow leaves out: of the pixels it compares neither checksums nor length."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

_SIGNATURE = 8  # bytes before the first chunk
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the color type
_PASSES = (  # of an interlaced image: the first column and row, and the steps to the next ones
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
_PACKED, _UNPACKED = 1 << 16, 1 << 20  # bytes that are inflated at a time, which bounds the memory


def check_png(raw: bytes) -> None:
    """Check a PNG file to its end (W3C, Portable Network Graphics, sections 5 and 10).

    Raises ValueError or `zlib.error` if a chunk is cut off or differs from its checksum, if the end is
    missing, or if the pixels are not as many as the header says, or differ from their checksum.
    """
    chunks = list(_chunks(raw))
    headers = [body for kind, body in chunks if kind == b"IHDR"]
    if len(headers) != 1 or len(headers[0]) < 13:
        raise ValueError(f"{len(headers)} headers, expected one of 13 bytes")
    _check_pixels((body for kind, body in chunks if kind == b"IDAT"), _length_of_pixels(headers[0]))


def _chunks(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each chunk before the end."""
    start, kind = _SIGNATURE, b""
    while kind != b"IEND":
        size, kind = int.from_bytes(raw[start : start + 4], "big"), raw[start + 4 : start + 8]
        end = start + 8 + size
        if end + 4 > len(raw):
            raise ValueError("image file is truncated")
        if zlib.crc32(raw[start + 4 : end]) != int.from_bytes(raw[end : end + 4], "big"):
            raise ValueError(f"wrong checksum of chunk {kind!r}")
        yield kind, raw[start + 8 : end]
        start = end + 4


def _length_of_pixels(header: bytes) -> int:
    """Compute the number of bytes of the unpacked pixels, a byte before each row among them."""
    width, height, depth, color, interlaced = struct.unpack_from(">IIBBxxB", header)
    if color not in _CHANNELS:
        raise ValueError(f"color type {color}, expected one of {list(_CHANNELS)}")
    bits, length = depth * _CHANNELS[color], 0
    for column, row, right, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - column) // right), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            length += rows * (1 + -(-columns * bits // 8))
    return length


def _check_pixels(bodies: Iterable[bytes], expected: int) -> None:
    """Raise ValueError unless the packed pixels unpack to `expected` bytes and a checksum."""
    unpack, length = zlib.decompressobj(), 0
    for body in bodies:
        for start in range(0, len(body), _PACKED):
            packed = body[start : start + _PACKED]
            while packed and not unpack.eof and length <= expected:
                length += len(unpack.decompress(packed, _UNPACKED))
                packed = unpack.unconsumed_tail
    if length > expected:
        raise ValueError(f"its header says {expected:,} bytes of pixels, and it has more")
    if length < expected or not unpack.eof:
        raise ValueError("image file is truncated")
