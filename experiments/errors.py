"""Errors of the command line: requests that cannot be met, in one line and in the words of flags."""

from __future__ import annotations

import contextlib
import errno
import re
import traceback
from collections.abc import Iterable, Iterator


class UsageError(Exception):
    """A request that cannot be met as it stands; its message is one line: what, where, what to do."""


class Interrupted(Exception):
    """A run that a signal, or --max_minutes, stopped before it had results; its message is for people."""

    def __init__(self, message: str, signal: int | None = None):
        super().__init__(message)
        self.status = 128 + signal if signal else 0


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """While a run is composed, turn the library's ValueErrors and OSErrors into UsageErrors.

    Data that do not fit a network are refused by flax or jax, so their ValueErrors count too; but they may be
    bugs, so that the line says where they come from.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(describe_os_error(error)) from error
    except ValueError as error:
        option = getattr(error, "option", None)  # of jmeta.models.inputs.InputError
        advice = f"; change --{option}" if option else _foreign_origin(error)
        raise UsageError(f"{error_text(error)}{advice}") from error


_WRITING = {
    errno.ENOSPC: "free some room",
    errno.EDQUOT: "free some room",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "make it writable",
}
_REMEDIES = _WRITING | {
    errno.EACCES: "permit it",
    errno.EPERM: "permit it",
    errno.EISDIR: "move the folder in its place away",
    errno.ENOTDIR: "move the file in its place away",
    errno.EEXIST: "move the file in its place away",
    errno.EMFILE: "raise the limit on open files",
    errno.ENFILE: "raise the limit on open files",
}


def error_text(error: BaseException) -> str:
    """Write an error on one line: its message, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def describe_os_error(error: OSError) -> str:
    """Describe what the file system refused, and for which file, if the error has them."""
    if error.errno is None:
        return error_text(error)
    verb = "write" if error.errno in _WRITING else "use"
    place = f" {error.filename}" if error.filename is not None else ""
    return f"cannot {verb}{place} ({error.strerror or type(error).__name__})"


def remedy(error: OSError) -> str | None:
    """Name what lifts the refusal of a file system; None if only the same command again may help."""
    return _REMEDIES.get(error.errno or 0)


def _foreign_origin(error: BaseException) -> str:
    """Name the line that raised an error, if it is neither jmeta's nor of the experiments."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    ours = module.partition(".")[0] in ("jmeta", "experiments", "__main__")
    return "" if ours else f" (raised by {module}, line {line})"


def as_flags(message: str, flags: Iterable[str]) -> str:
    """Write the arguments that a library's message names as flags of these names.

    Rewritten are `name=True`, `name=value`, `name is value now and ... there`, and names that are no words,
    for their underscore; not within a path, a list or quotes.
    """
    for name in flags:
        whole = r"(?![\w/.-])" if "_" in name else "(?==| is [^;]* now and )"
        message = re.sub(rf"(?<![\w/.,:='-]){name}(?:=True\b|{whole})", f"--{name}", message)
    return message
