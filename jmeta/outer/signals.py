"""Answer Ctrl-C and SIGTERM at once and truly, also while the main thread compiles or waits for a device."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NamedTuple

PROMISE = "stopping after the steps under way, with a checkpoint"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds that Python's own handler gets before the watch answers, and the main thread before it is ended.
_PATIENCE, _GRACE = 0.2, 2.0


class Stopped(KeyboardInterrupt):
    """Raised in the main thread where the signal `number` ends the program; its line has been printed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Phase(NamedTuple):
    """A part of the program: the line that answers a signal, and who hears of it; None if it ends there."""

    line: Callable[[], str]
    received: list[int] | None


@contextlib.contextmanager
def stop_on_signals(promise: str = PROMISE) -> Iterator[Callable[[], int | None]]:
    """Let SIGINT and SIGTERM only set a flag within the context; a second Ctrl-C ends the process at once.

    Yields a function that returns the number of the first signal received, or None. Handlers cannot be set
    outside the main thread; there it always returns None. `promise` is printed when a signal comes.
    """
    received: list[int] = []
    with _phase(_Phase(lambda: f"{promise}; Ctrl-C stops at once", received)):
        yield lambda: received[0] if received else None


@contextlib.contextmanager
def promising(promise: str) -> Iterator[None]:
    """Print another promise for a signal within a part of `stop_on_signals`; elsewhere do nothing."""
    received = _phases[-1].received if _phases else None
    if received is None:
        yield
        return
    with _phase(_Phase(lambda: f"{promise}; Ctrl-C stops at once", received)):
        yield


@contextlib.contextmanager
def end_on_signals(line: Callable[[], str]) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the program within the context: print `line()` and raise `Stopped`.

    If the main thread cannot unwind, as it compiles, the process exits with status 128 + number after two
    seconds, or at once at a second Ctrl-C.
    """
    with _phase(_Phase(line, None)):
        yield


@contextlib.contextmanager
def _phase(phase: _Phase) -> Iterator[None]:
    """Answer signals by `phase` within the context, from the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with contextlib.ExitStack() as stack:
        if _watch[0] is None:
            stack.enter_context(_watching())
        watch = _watch[0]
        assert watch is not None
        # In every phase anew: jax.distributed sets a handler of its own.
        before = {number: signal.signal(number, watch.in_main_thread) for number in _SIGNALS}
        if watch.heard:  # the next Ctrl-C ends the process
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        _phases.append(phase)
        try:
            yield
        finally:
            _phases.pop()
            for number, handler in before.items():
                if not (watch.heard and _phases and number == signal.SIGINT):
                    signal.signal(number, handler)


class _Watch:
    """Reads the numbers of signals from a pipe, in the handler or, if the main thread is busy in compiled
    code, which no handler interrupts, in a thread; each is answered once, by the innermost phase."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.ending: int | None = None
        self._deadline: float | None = None
        self._closed = False
        self._end, self.start = os.pipe()
        for end in (self._end, self.start):
            os.set_blocking(end, False)
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()

    def in_main_thread(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal in Python's main thread: answer it, unless that is done, and end if it says so."""
        self._answer_all()
        # The default action, unlike an exception, also ends a process that waits for a device.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        ending, self.ending = self.ending, None
        if ending is not None:
            raise Stopped(ending)

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wake()
        self._thread.join()
        os.close(self.start)
        os.close(self._end)

    def _run(self) -> None:
        while not self._closed:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            ready, _, _ = select.select([self._end], [], [], left)
            if self._closed:
                return
            if not ready and self._deadline is not None:
                os._exit(128 + self.heard[0])
            time.sleep(_PATIENCE)
            self._answer_all()

    def _answer_all(self) -> None:
        try:
            numbers = os.read(self._end, 64)
        except BlockingIOError:  # the other thread was first
            return
        for number in numbers:
            if number in _SIGNALS:
                self._answer(number)

    def _answer(self, number: int) -> None:
        if self.heard:
            if number == signal.SIGINT:
                os._exit(128 + number)
            return
        phase = _phases[-1]
        self.heard.append(number)
        with contextlib.suppress(OSError):  # of a standard error that is full or closed
            os.write(2, f"\n{phase.line()}\n".encode(errors="replace"))
        if phase.received is not None:
            phase.received.append(number)
        else:
            self.ending, self._deadline = number, time.monotonic() + _GRACE
            self._wake()

    def _wake(self) -> None:
        os.write(self.start, b"\0")


# Signals are the process's own: its phases, innermost last, and its watch, if there is one.
_phases: list[_Phase] = []
_watch: list[_Watch | None] = [None]


@contextlib.contextmanager
def _watching() -> Iterator[None]:
    """Let signals be written into the pipe of a watch, as soon as they come."""
    watch = _watch[0] = _Watch()
    before = signal.set_wakeup_fd(watch.start, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        _watch[0] = None
        watch.close()
