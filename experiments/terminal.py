"""Programs whose standard output or error is full, closed or a pipe that nobody reads."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO


def exit_with(program: Callable[[], int], name: str) -> NoReturn:
    """Run a program called `name`, and exit with the status that it returns, or 2 if its output is lost.

    No print fails; a reader that ends early is no error.
    """
    with _forgiving_streams(), _quiet_threads():
        status = program()
        error = _flush(sys.stdout)
        if error is not None and not isinstance(error, BrokenPipeError):
            print(f"{name}: cannot write to standard output ({error.strerror})", file=sys.stderr)
            status = status or 2
        _flush(sys.stderr)
    sys.exit(status)


def end_process(status: int) -> NoReturn:
    """End the process at once, without the actions that Python and libraries take at an exit."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


class _Forgiving:
    """A text stream that drops what cannot be written, and notes the first `error`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.error = self.error or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _forgiving_streams() -> Iterator[None]:
    """Let the standard streams, which may be closed, drop what cannot be written."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        sys.stdout, sys.stderr = (_Forgiving(stream or nowhere) for stream in before)  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _flush(stream: TextIO) -> OSError | None:
    """Flush a stream, and return the first error that it had; then it is redirected to nowhere, as Python
    flushes it at the exit."""
    forgiving = stream if isinstance(stream, _Forgiving) else _Forgiving(stream)
    forgiving.flush()
    if forgiving.error is not None:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), forgiving.fileno())
    return forgiving.error


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Hide what the threads of orbax and tensorstore print beside the error that they raise."""
    hook, loggers = sys.unraisablehook, [logging.getLogger(name) for name in ("absl", "asyncio")]

    def without_writers(unraisable: Any) -> None:
        is_writer = type(unraisable.object).__name__ in ("coroutine", "async_generator")
        if not is_writer and str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    def is_no_trace(record: logging.LogRecord) -> bool:
        return not record.exc_info

    sys.unraisablehook = without_writers
    for logger in loggers:
        logger.addFilter(is_no_trace)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
            if "orbax.checkpoint" in sys.modules:
                gc.collect()  # coroutines that an error has left behind
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(is_no_trace)
