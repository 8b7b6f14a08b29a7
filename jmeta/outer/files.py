"""Files that are read with a bound and written whole, and errors of the file system that name the file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

# What a file system refuses with. Tensorstore's errors have only the text of the number.
_REFUSALS = {
    os.strerror(number): number
    for number in (
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
        errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.EISDIR, errno.EMFILE, errno.ENFILE,
    )
}  # fmt: skip


def read_plain(path: Path, limit: int = 64 << 20, errors: str = "strict") -> str:
    """Read the text of a plain file of at most `limit` bytes.

    Raises OSError if it cannot be read, or is a pipe or a device; ValueError for a larger file, and for
    another encoding than UTF-8 unless `errors` is "replace".
    """
    facts = path.stat()
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):  # reading a folder fails by itself
        raise OSError(errno.EINVAL, "Not a plain file", str(path))
    if facts.st_size > limit:
        raise ValueError(f"it has {facts.st_size:,} bytes, expected at most {limit:,}")
    return path.read_text(encoding="utf-8", errors=errors)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole: `write(temporary)` under a temporary name, which is then renamed.

    A file that was there before is unchanged if writing fails. Raises OSError, which names `path`.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with naming(path):
        try:
            write(temporary)
            with temporary.open("rb") as file:  # on disk before the name is, also when the power fails
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let errors of the file system, also those of orbax and tensorstore, name a path, as OSErrors."""
    try:
        yield
    except Exception as error:
        refusal = as_os_error(error, path)
        if refusal is None:
            raise
        raise refusal from error


def as_os_error(error: BaseException, path: str | Path) -> OSError | None:
    """Turn an error whose cause is a refusal of the file system into an OSError that names `path`; None if it
    has no such cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return OSError(cause.errno, os.strerror(cause.errno), str(path))
        if isinstance(cause, ValueError | RuntimeError):
            for text, number in _REFUSALS.items():
                if text in str(cause):
                    return OSError(number, text, str(path))
        cause = cause.__cause__ or cause.__context__
    return None
