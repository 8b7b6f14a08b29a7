"""A watch over the other processes of a cluster, so that the loss of one ends the others with a sentence.

Without it they wait for the lost one's part of a sum, until jax aborts them with a stack of C++.

Every process is connected to process 0, which passes on what it hears. The lines are "beat", "end INDEX
STATUS" from a process whose work has ended, "lost INDEX", and "part together" or "part alone" once all have
ended: jax waits for all processes when it shuts down, which is in vain if one has gone before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

LOST = 4  # the exit status of a process that has lost another
_BEAT = 5.0  # seconds between two signs of life
_SILENCE = 60.0  # seconds without one after which a process is lost
# Seconds that a process may go on after another has ended: in good order, or not.
_AFTER_END, _AFTER_FAILURE = 300.0, 30.0


class Watch:
    """The connections of process `index` of `number` to the others, read by a thread.

    If another process is lost, or ends while this one goes on, the thread writes a line to standard error,
    with the words of `advice()`, and ends this process with status 4 (or with its own, if that is not 0).
    """

    def __init__(
        self,
        index: int,
        number: int,
        connections: Mapping[int, socket.socket],
        *,
        prefix: str,
        advice: Callable[[], str],
    ) -> None:
        self._index, self._number = index, number
        self._connections = dict(connections)
        self._prefix, self._advice = prefix, advice
        self._heard = dict.fromkeys(connections, time.monotonic())
        self._rests = dict.fromkeys(connections, b"")
        self._ended: dict[int, int] = {}  # exit status by process
        self._farewell: str | None = None  # the word of process 0 once all have ended
        self._limit = float("inf")
        self._changed = threading.Condition()
        for connection in connections.values():
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _delay_aborts()
        threading.Thread(target=self._run, name="cluster watch", daemon=True).start()

    def leave(self, status: int) -> bool:
        """Say that this process ends with `status`, and wait until all others have ended too.

        Returns False if one of them has gone in the meantime, so that jax cannot part from all.
        """
        with self._changed:
            self._ended.setdefault(self._index, status)
            self._tell(f"end {self._index} {status}")
            self._say_farewell()
            self._changed.wait_for(lambda: self._farewell)
            return self._farewell == "together"

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for index, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, index)
            beat = time.monotonic()
            while True:
                events = selector.select(1.0)
                now = time.monotonic()
                with self._changed:
                    for key, _ in events:
                        self._heard[key.data] = now
                        if not self._read(key.data):
                            selector.unregister(key.fileobj)
                            self._part(key.data)
                    if now >= beat:
                        self._tell("beat")
                        beat = now + _BEAT
                    self._check(now)
                    self._changed.notify_all()

    def _read(self, index: int) -> bool:
        """Hear what has come from a process; False once its connection has ended, as the process has."""
        try:
            data = self._connections[index].recv(4096)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        *lines, self._rests[index] = (self._rests[index] + data).split(b"\n")
        for line in lines:
            self._hear(index, line.decode(errors="replace"))
        return bool(data)

    def _hear(self, sender: int, line: str) -> None:
        word, *numbers = line.split()
        if word == "lost":
            self._lose(int(numbers[0]), "process 0 says so")
        if word == "end":
            index, status = map(int, numbers)
            self._ended[index] = status
            self._limit = min(self._limit, time.monotonic() + (_AFTER_FAILURE if status else _AFTER_END))
            self._tell(line, without=sender)
            self._say_farewell()
        if word == "part":
            self._farewell = line.split()[1]

    def _say_farewell(self) -> None:
        """As process 0 tell the others to part, if all have ended."""
        if self._index == 0 and len(self._ended) == self._number:
            self._farewell = "together" if len(self._connections) == self._number - 1 else "alone"
            self._tell(f"part {self._farewell}")

    def _part(self, index: int) -> None:
        """Drop a connection that has ended; its process is lost, unless it has ended in good order."""
        self._connections.pop(index).close()
        if index not in self._ended or (index == 0 and not self._farewell):
            self._lose(index, "its connection closed")

    def _check(self, now: float) -> None:
        """End this process if another is silent, or ended long ago."""
        for index in self._connections:
            if index not in self._ended and now - self._heard[index] > _SILENCE:
                self._lose(index, f"no sign of life for {_SILENCE:.0f} s")
        if now > self._limit and self._index not in self._ended:
            index, status = max(self._ended.items(), key=lambda item: item[1])
            self._end(f"process {index} of {self._number} ended with status {status} while this one went on")

    def _lose(self, index: int, reason: str) -> NoReturn:
        self._tell(f"lost {index}")
        self._end(f"process {index} of {self._number} was lost ({reason})")

    def _end(self, text: str) -> NoReturn:
        """End this process at once, without jax's farewell to those that are gone."""
        status = self._ended.get(self._index, 0)
        if not status:
            with contextlib.suppress(OSError):
                standard_error = os.dup(2)
                # The last word is the watch's, not that of a library which also notices the loss.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                line = f"{self._prefix}{text}; {self._advice()}\n"
                os.write(standard_error, line.encode(errors="backslashreplace"))
        os._exit(status or LOST)

    def _tell(self, line: str, *, without: int | None = None) -> None:
        """Write a line to all connections but one; a broken one is found by its end."""
        for index, connection in self._connections.items():
            if index != without:
                with contextlib.suppress(OSError):
                    connection.send(f"{line}\n".encode())


def _delay_aborts() -> None:
    """Let a thread that aborts the process sleep first, for the watch to end it in order.

    XLA aborts as soon as the connection to process 0 closes, and offers no other way. The handler is C's
    `sleep` itself, whose argument, the seconds, is the number of the signal: 6. Then the abort goes on.
    """
    library = ctypes.CDLL(None)
    library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))
