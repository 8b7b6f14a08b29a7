"""The guard of all readers: foreign bytes end in data or in one DataError, and take a bounded memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import reprlib
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from jmeta.data.errors import DataError

LARGEST_IMAGE = 64 << 20  # bytes of one image file, encoded
LARGEST_JSON = 64 << 20
_ZIP_END = 22 + 65535  # bytes behind the directory of a zip archive, at most: a record and a comment
_UNPACKERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}  # by the first bytes
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


@contextlib.contextmanager
def reading(
    where: object, what: str = "damaged or truncated file", advice: str = "fetch it again"
) -> Iterator[None]:
    """Turn everything that a decoder raises on the bytes of `where` into one DataError.

    A decoder that meets garbage may raise anything: a list of its exceptions is never complete. A DataError
    passes as it is, and so does an interrupt.

    Args:
      where: the file, for the message.
      what: the fault, for the message.
      advice: the remedy, for the message.
    """
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(
            f"it claims or needs more memory than there is ({_reason(error)})", where, advice
        ) from error
    except RecursionError as error:
        raise DataError(f"{what} (nested too deep)", where, advice) from error
    except OSError as error:
        if error.errno is None:  # a decoder's, such as gzip.BadGzipFile
            raise DataError(f"{what} ({_reason(error)})", where, advice) from error
        raise DataError(f"cannot read ({error.strerror})", where) from error
    except Exception as error:
        raise DataError(f"{what} ({_reason(error)})", where, advice) from error


def _reason(error: BaseException) -> str:
    return str(error)[:200] or type(error).__name__


def quote(value: object) -> str:
    """Represent a value of foreign data in a message, its middle left out if it is long."""
    return _SHORT.repr(value)


def check_plain(path: Path) -> None:
    """Raise DataError unless `path` is, or links to, a plain file: a pipe makes its reader wait for ever, and
    some devices never end."""
    with reading(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError("not a plain file", path, "replace it by one, or remove it")


def read_file(path: Path, limit: int) -> bytes:
    """Read a plain file of at most `limit` bytes. Raises DataError if it is larger or cannot be read."""
    check_plain(path)
    with reading(path), path.open("rb") as stream:
        return read_stream(stream, limit, path, path.stat().st_size)


def read_unpacked(path: Path, limit: int) -> bytes:
    """Read a plain file, unpacked if it begins as gzip, bzip2 or xz, to the checksum at its end.

    Raises DataError if it is damaged, or is larger than `limit` bytes when unpacked.
    """
    check_plain(path)
    with reading(path, "damaged or truncated archive"), path.open("rb") as packed:
        start = packed.read(8)
        packed.seek(0)
        unpack = next((unpack for magic, unpack in _UNPACKERS.items() if start.startswith(magic)), None)
        if unpack is None:
            return read_stream(packed, limit, path, path.stat().st_size)
        with unpack(packed) as stream:
            return read_stream(stream, limit, path)


def read_stream(stream: IO[bytes], limit: int, where: object, size: int | None = None) -> bytes:
    """Read `stream` to its end, where a compressed one has its checksum.

    `size` is the number of bytes that it states, if it states one. Raises DataError above `limit` bytes.
    """
    if size is not None and size > limit:
        raise _too_large(f"{size:,} bytes", limit, where)
    content = stream.read((limit if size is None else size) + 1)
    if size is not None and len(content) > size:  # a stated size may be wrong
        content += stream.read(limit + 1 - len(content))
    if len(content) > limit:
        raise _too_large("more", limit, where)
    return content


def _too_large(size: str, limit: int, where: object) -> DataError:
    return DataError(
        f"too large ({size} where at most {limit:,} bytes are read)", where, "replace or remove the file"
    )


def check_directory(archive: zipfile.ZipFile, unread: Iterable[str]) -> None:
    """Raise BadZipFile if damage to the directory of a zip archive hides files.

    The names of the members `unread` are compared with those before their contents, as reading compares them,
    and the number of members with that behind the directory.
    """
    for name in unread:
        with contextlib.suppress(NotImplementedError, RuntimeError):  # encrypted, or packed in another way
            archive.open(name).close()
    if archive.fp is not None:
        archive.fp.seek(0, os.SEEK_END)
        archive.fp.seek(max(0, archive.fp.tell() - _ZIP_END))
        end = archive.fp.read()
        place = end.rfind(b"PK\5\6") + 10
        number, members = int.from_bytes(end[place : place + 2], "little"), len(archive.infolist())
        if number not in (members % 65536, 65535):  # the latter if more bits than 16 stand elsewhere
            raise zipfile.BadZipFile(f"{members} members where {number} are stated")


def read_json(path: Path, what: str = "damaged JSON file", advice: str = "correct the file") -> Any:
    """Read a JSON file in UTF-8, with or without a byte-order mark.

    `what` and `advice` are the fault and the remedy in messages. Raises DataError if it cannot be read.
    """
    content = read_file(path, LARGEST_JSON)
    with reading(path, what, advice):
        return json.loads(content.decode("utf-8-sig"))
