"""The idx format of MNIST and its relatives: arrays of bytes behind a short header, usually gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from jmeta.data.errors import DataError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> np.ndarray:
    """Read the uint8 array of an idx file, gzipped or not; its shape is the header's.

    The header is two zero bytes, the type's code (0x08, unsigned byte), the number of axes, and the length of
    each axis as a big-endian 32-bit integer. Raises DataError for a file that cannot be read, is truncated or
    does not contain unsigned bytes.
    """
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"damaged or truncated gzip file ({error})", path, "fetch it again") from error
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror or error})", path) from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise DataError("not an idx file of unsigned bytes", path, "fetch it again")
    axes = content[3]
    header = 4 + 4 * axes
    shape = tuple(int(length) for length in np.frombuffer(content[4:header], ">u4"))
    expected = header + math.prod(shape)
    if len(shape) != axes or len(content) != expected:
        raise DataError(
            f"truncated idx file ({len(content)} bytes, its header says {expected})", path, "fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
