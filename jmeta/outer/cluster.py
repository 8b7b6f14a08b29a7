"""A run as several processes: join them, notice when one is lost, and part in good order."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator

import jax

from jmeta.outer.rendezvous import Place, meet, split_address
from jmeta.outer.watch import Watch

_ADVICE = "give the same command again in every process, to go on from the newest checkpoint"
_HELP = (
    "outside TPU pods, Slurm, Open MPI and Kubernetes set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
    "JAX_NUM_PROCESSES, JAX_PROCESS_ID"
)
# Seconds in which the watch may find that a failure comes from the loss of another process.
_CAUSE = 3.0
_watches: list[Watch] = []  # of this process: none or one, as jax can be started once


def start_distributed(
    *,
    patience: float = 120.0,
    program: str = "",
    prefix: str = "",
    advice: Callable[[], str] = lambda: _ADVICE,
) -> None:
    """Join the processes of a cluster; call it before anything computes, and `leave_cluster` at the end.

    On TPU pods, Slurm, Open MPI and Kubernetes jax finds the others by itself. Elsewhere, set in each process
    JAX_COORDINATOR_ADDRESS=HOST:PORT (of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0).

    From then on the loss of a process ends the others within two minutes, with a line on standard error and
    exit status 4.

    Args:
      patience: the seconds to wait for processes that have not come; said at once on standard error.
      program: describes the run; a process with another description is refused.
      prefix: begins the lines on standard error.
      advice: returns the end of the line about a lost process: how to go on.

    Raises:
      ValueError: if these settings are missing or malformed, if processes do not come in time or disagree
        about the cluster, or if jax has computed something before.
    """
    digest = hashlib.sha256(program.encode()).hexdigest()
    place = _find_place(patience)._replace(program=digest)
    connections = meet(place, seconds=patience, report=lambda line: _say(prefix + line))
    watch = (
        Watch(place.process, place.number, connections, prefix=prefix, advice=advice) if connections else None
    )
    with _as_value_errors():
        jax.distributed.initialize(place.address, place.number, place.process)
    if watch:
        _watches.append(watch)
        atexit.register(_leave_at_exit)


def leave_cluster(status: int) -> None:
    """End this process's part, with the exit `status` it is about to have; without a cluster do nothing.

    Waits until the other processes have ended too. If that is in vain, this process ends here.
    """
    if not _watches:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    try:
        together = _watches[0].leave(status)
    except KeyboardInterrupt:
        together, status = False, 130
    if not together:
        os._exit(status)
    _watches.pop()


@contextlib.contextmanager
def wait_for_cause() -> Iterator[None]:
    """Delay errors that may come from the loss of another process, until that would have ended this one.

    An operation across processes fails at once if one is lost, perhaps before the watch has heard of it.
    """
    try:
        yield
    except Exception:
        if _watches:
            time.sleep(_CAUSE)
        raise


def _find_place(patience: float) -> Place:
    """Find the place of this process in the cluster, as `jax.distributed.initialize` does."""
    from jax._src.clusters import ClusterEnv  # jax has no public name for it

    address = os.environ.get("JAX_COORDINATOR_ADDRESS") or None
    number, index = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
    with _as_value_errors():
        if None in (address, number, index):
            address, number, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
                address, number, index, None, None, int(patience)
            )
        if address is None:
            raise ValueError("JAX_COORDINATOR_ADDRESS is not set")
        if number is None:
            raise ValueError("JAX_NUM_PROCESSES is not set")
        if index is None:
            raise ValueError("JAX_PROCESS_ID is not set")
        split_address(address)
    if not index < number:
        raise ValueError(f"JAX_PROCESS_ID={index} of JAX_NUM_PROCESSES={number}; expected 0 to {number - 1}")
    return Place(address, number, index)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{name}={text}; expected a number, 0 or more")
    return None if text is None else int(text)


@contextlib.contextmanager
def _as_value_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        raise ValueError(
            f"cannot join the other processes: {' '.join(str(error).split())} ({_HELP})"
        ) from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _leave_at_exit() -> None:
    leave_cluster(1 if hasattr(sys, "last_value") else 0)
