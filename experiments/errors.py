"""Errors of the command line: requests that cannot be met, in one line and in the words of flags."""

from __future__ import annotations

import contextlib
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
        raise UsageError(str(error)) from error
    except ValueError as error:
        raise UsageError(f"{error}{_foreign_origin(error)}") from error


def _foreign_origin(error: BaseException) -> str:
    """Name the line that raised an error, if it is neither jmeta's nor of the experiments."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    ours = module.partition(".")[0] in ("jmeta", "experiments", "__main__")
    return "" if ours else f" (raised by {module}, line {line})"


def as_flags(message: str, flags: Iterable[str]) -> str:
    """Write the arguments that a library's message names as flags of these names.

    Rewritten are `name=True`, `name=value`, and names that are no words, for their underscore; not within a
    path, a list or quotes.
    """
    for name in flags:
        whole = r"(?![\w/.-])" if "_" in name else "(?==)"
        message = re.sub(rf"(?<![\w/.,:='-]){name}(?:=True\b|{whole})", f"--{name}", message)
    return message
