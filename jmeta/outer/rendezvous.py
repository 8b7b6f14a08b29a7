"""The meeting of a cluster's processes before they start jax, which says which of them are missing.

Process 0 listens on the coordinator's port until all others have called, and then frees it for jax. Both
sides write lines: a caller "jmeta INDEX NUMBER PROGRAM"; process 0 "wait SECONDS", and later "go" or
"no REASON".
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

_LONGEST = 1000  # bytes of a line
_GREETING = 5.0  # seconds in which a caller says who it is
_AGAIN = 0.25  # seconds between two calls
_ON_ITS_WAY = 10.0  # seconds for a line to arrive


class Place(NamedTuple):
    """The place of this process in a cluster: `process` of `number`, with process 0 at HOST:PORT `address`.

    `program` is a word that must be the same in all of them.
    """

    address: str
    number: int
    process: int
    program: str = "-"


def meet(place: Place, *, seconds: float, report: Callable[[str], None]) -> dict[int, socket.socket]:
    """Wait until every process of the cluster is there.

    Args:
      place: the place of this process.
      seconds: the longest wait.
      report: receives a line for people that names the processes it waits for.

    Returns:
      Connections by process: those of process 0 to all others, and those of the others to process 0.

    Raises:
      ValueError: naming the processes that do not come in time, or that disagree about the cluster.
    """
    if place.number == 1:
        return {}
    deadline = time.monotonic() + seconds
    others = range(1, place.number) if place.process == 0 else [0]
    report(f"waiting for {names(others, place.number)} at {place.address}, at most {seconds:.0f} s")
    if place.process == 0:
        return _gather(place, deadline, seconds)
    return {0: _join(place, deadline, seconds, report)}


def names(indices: Iterable[int], number: int) -> str:
    """Name processes: "process 1 of 2", "processes 1 to 7 of 8"."""
    indices = list(indices)
    if len(indices) == 1:
        return f"process {indices[0]} of {number}"
    if len(indices) > 2 and indices[-1] - indices[0] == len(indices) - 1:
        return f"processes {indices[0]} to {indices[-1]} of {number}"
    return f"processes {', '.join(map(str, indices))} of {number}"


def split_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT or [HOST]:PORT. Raises ValueError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is no address; expected HOST:PORT, such as 10.0.0.1:1234")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _gather(place: Place, deadline: float, seconds: float) -> dict[int, socket.socket]:
    """Accept the calls of all other processes, and tell them to go, or why not."""
    present: dict[int, socket.socket] = {}
    reason = "process 0 was stopped while it waited"
    try:
        with _listen(place) as listener:
            while missing := [index for index in range(1, place.number) if index not in present]:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ValueError(
                        f"{names(missing, place.number)} did not come to {place.address} within "
                        f"{seconds:.0f} s; give the same command in every process"
                    )
                listener.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    _admit(listener.accept()[0], place, present, left)
    except BaseException as error:
        reason = str(error) if isinstance(error, ValueError) else reason
        _send(present.values(), f"no {reason}")
        for connection in present.values():
            connection.close()
        raise
    _send(present.values(), "go")  # the port is free again: jax's service listens there next
    return present


def _admit(connection: socket.socket, place: Place, present: dict[int, socket.socket], left: float) -> None:
    """Add a caller to those `present`. Raises ValueError if it disagrees about the cluster."""
    connection.settimeout(_GREETING)
    words = (_read_line(connection) or "").split()
    if len(words) != 4 or words[0] != "jmeta" or not (words[1].isdecimal() and words[2].isdecimal()):
        connection.close()  # a stranger, such as a probe of the port
        return
    index, number = int(words[1]), int(words[2])
    apart = "; expected JAX_NUM_PROCESSES to be the same in every process, and JAX_PROCESS_ID to differ"
    reason = None
    if number != place.number:
        reason = f"process {index} counts {number} processes and process 0 counts {place.number}{apart}"
    elif not 0 < index < number or (index in present and not _hung_up(present[index])):
        reason = f"two processes call themselves process {index} of {number}{apart}"
    elif words[3] != place.program:
        reason = f"process {index} runs another command than process 0; give the same flags in every process"
    if reason:
        _send([connection], f"no {reason}")
        connection.close()
        raise ValueError(reason)
    present[index] = connection
    _send([connection], f"wait {math.ceil(left)}")


def _join(place: Place, deadline: float, seconds: float, report: Callable[[str], None]) -> socket.socket:
    """Call process 0 until it answers, and wait for its word to go."""
    host, port = split_address(place.address)
    error: OSError | None = None
    while (left := deadline - time.monotonic()) > 0:
        try:
            connection = socket.create_connection((host, port), timeout=min(left, _GREETING))
        except OSError as failure:
            error = failure
            time.sleep(min(left, _AGAIN))
            continue
        if connection.getsockname() == connection.getpeername():  # a free local port may call itself
            connection.close()
            continue
        try:
            _wait_for_go(connection, place, left, report)
        except BaseException:
            connection.close()
            raise
        return connection
    raise ValueError(
        f"{names([0], place.number)} did not come to {place.address} within {seconds:.0f} s ({error}); "
        "give the same command in every process, and in each the address of process 0"
    )


def _wait_for_go(connection: socket.socket, place: Place, left: float, report: Callable[[str], None]) -> None:
    """Greet process 0 and return when it says that all are there. Raises ValueError if it does not."""
    _send([connection], f"jmeta {place.process} {place.number} {place.program}")
    # Process 0 may be about other connections first.
    connection.settimeout(max(left, _ON_ITS_WAY))
    while (line := _read_line(connection)) is not None:
        word, _, rest = line.partition(" ")
        if word == "go":
            return
        if word == "no":
            raise ValueError(rest)
        if word != "wait" or not rest.isdecimal():
            raise ValueError(f"{place.address} answers, but is no process 0 that waits for a cluster")
        if place.number > 2:
            report(f"process 0 is there; waiting for the others, at most {rest} s")
        connection.settimeout(int(rest) + _ON_ITS_WAY)
    raise ValueError(
        f"process 0 at {place.address} went away before all {place.number} processes were there; give the "
        "same command again in every process"
    )


@contextlib.contextmanager
def _listen(place: Place) -> Iterator[socket.socket]:
    """Listen where jax's coordinator will: on every interface, or at JAX_COORDINATOR_BIND_ADDRESS."""
    address = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or place.address
    host, port = split_address(address)
    if "JAX_COORDINATOR_BIND_ADDRESS" not in os.environ:
        host = ""
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=dual)
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen at {address}: {os.strerror(error.errno or 0)}; give another port"
        ) from error
    with listener:
        yield listener


def _hung_up(connection: socket.socket) -> bool:
    """Test if the other side of a quiet connection has closed it."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _read_line(connection: socket.socket) -> str | None:
    """Read a line; None if the connection ends, or has none within its timeout."""
    line = b""
    while len(line) < _LONGEST:
        try:
            byte = connection.recv(1)  # no byte of what follows the line
        except OSError:
            return None
        if byte in (b"", b"\n"):
            return line.decode(errors="replace") if byte else None
        line += byte
    return None


def _send(connections: Iterable[socket.socket], line: str) -> None:
    """Write a line to those that can still hear it."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(f"{line}\n".encode())
