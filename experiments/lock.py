"""A lock on a folder, which ends with the process that holds it, also by SIGKILL."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, its file .lock, which is removed at the end.

    Where the file system has no locks, a warning is printed instead. Raises UsageError, naming the holder, if
    another process, or this one, holds it; OSError if the file cannot be made.
    """
    path = folder / NAME
    descriptor = _acquire(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # before the lock ends: then the file may be another's
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Open and lock the file at `path`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _try_lock(descriptor, path):
                raise UsageError(
                    f"{path.parent} is in use by {_holder(descriptor)}; wait until it ends, stop it, or give "
                    "another --workdir"
                )
            if _is_at(descriptor, path):  # the holder before may have removed it in the meantime
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    """Lock a file; False if it is locked already. Without locks, warn and go on."""
    try:
        if fcntl is None:
            raise OSError("this system has none")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        reason = error.strerror or error
        print(f"{path.parent} cannot be locked ({reason}): start no second run in it", file=sys.stderr)
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write into the file who holds it."""
    text = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    with contextlib.suppress(OSError):  # a full disk: the lock holds without
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    """Read who holds the file."""
    text = os.pread(descriptor, 500, 0).decode(errors="replace")
    return " ".join(text.split()) or "another process"
