"""The idx format of MNIST and its relatives: arrays of bytes behind a short header, usually gzipped."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from jmeta.data.errors import DataError
from jmeta.data.sources.guard import read_unpacked, reading

_UNSIGNED_BYTE = 0x08
_LARGEST = 64 << 20  # bytes; MNIST's training images have 47 million


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read the uint8 array of an idx file, gzipped or not; its header says its shape, of `axes` axes.

    The header is two zero bytes, the type's code (0x08, unsigned byte), the number of axes, and the length of
    each axis as a big-endian 32-bit integer. Raises DataError for a file that cannot be read, is damaged or
    truncated, has more than 64 MiB, or does not contain unsigned bytes in that number of axes.
    """
    content = read_unpacked(path, _LARGEST)
    with reading(path, "damaged idx file"):
        if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
            raise DataError("not an idx file of unsigned bytes", path, "fetch it again")
        if content[3] != axes:
            raise DataError(f"idx file of {content[3]} axes, expected {axes}", path, "fetch it again")
        header = 4 + 4 * axes
        if len(content) < header:
            raise DataError(f"truncated idx file ({len(content)} bytes)", path, "fetch it again")
        shape = tuple(int(length) for length in np.frombuffer(content[4:header], ">u4"))
        if len(content) != (expected := header + math.prod(shape)):
            what = f"truncated idx file ({len(content)} bytes, its header says {expected})"
            raise DataError(what, path, "fetch it again")
        return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
