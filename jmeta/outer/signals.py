"""Stop in good order on Ctrl-C and SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], int | None]]:
    """Let SIGINT and SIGTERM only set a flag within the context; a second Ctrl-C ends the process at once.

    Yields a function that returns the number of the first signal received, or None. Handlers cannot be set
    outside the main thread; there it always returns None.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # The default action, unlike an exception, also ends a process that waits for a device.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(2, b"\nstopping after this dispatch, with a checkpoint; Ctrl-C stops at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
