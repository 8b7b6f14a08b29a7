"""Learning a stream part by part, with a log, records of its steps, and checkpoints to resume from."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import Interrupted
from experiments.trials import Part, Trials
from experiments.workdir import write_arrays
from jmeta.outer.checkpoint import CheckpointError, Checkpoints
from jmeta.outer.finite import NonFiniteError
from jmeta.outer.metrics_log import MetricsLog
from jmeta.outer.progress import announce, clock_text
from jmeta.outer.screen import join_parts, terminal_columns
from jmeta.outer.signals import stop_on_signals
from jmeta.types import LearnerState, PyTree

RECORDS = "records.npz"


class StreamState(NamedTuple):
    """A stream of which `done` batches have been learned, in `seconds` of all parts of the run: `states` of
    the learners, `snapshots` of earlier ones, both [trial, ...], and `records` {name: [trial, step]}."""

    states: PyTree
    snapshots: PyTree
    done: int = 0
    seconds: float = 0.0
    records: Mapping[str, np.ndarray] = {}


def learn_stream(
    advance: Callable[[PyTree, PyTree, int], Part],
    stream: StreamState,
    steps: int,
    *,
    trials: Trials,
    checkpoints: Checkpoints,
    workdir: Path,
    checkpoint_every: int,
    deadline: float,
) -> tuple[StreamState, int | None]:
    """Learn the batches of a stream that are left, from the last checkpoint on, until `steps` or `deadline`.

    Args:
      advance: `(states, snapshots, done) -> Part` learns the part after `done` batches; its arguments may be
        donated.
      stream: the state before the first batch; a checkpoint goes before it.
      steps: number of batches.
      trials: names the seed of a loss that is not finite; of a grid, one finite loss is enough to go on.
      checkpoints: written every `checkpoint_every` batches, up to the end of a part, and at the end.
      workdir: folder of the log and the records.
      deadline: a value of `time.monotonic()`.

    Returns:
      The state, and the number of the signal that came, or None.

    Raises:
      NonFiniteError, CheckpointError: with the checkpoint to go back to, or what to remove.
    """
    stream, saved = _resume(stream, checkpoints, workdir)
    promise = "stopping after this part of the stream, with a checkpoint"
    timed_steps, timed_seconds, first = 0, 0.0, stream.done
    with stop_on_signals(promise) as stopped, contextlib.closing(MetricsLog(workdir)) as log:
        log.start(stream.done)
        while stream.done < steps and not stopped() and time.monotonic() < deadline:
            before, start_time = stream.done, time.monotonic()
            part = advance(stream.states, stream.snapshots, before)
            means, records = jax.device_get((part.means, part.records))
            seconds = stream.seconds + time.monotonic() - start_time
            stream = StreamState(
                part.states, part.snapshots, part.done, seconds, _append(stream.records, records)
            )
            check_finite(means["loss"], stream.done, saved, trials)
            log.write(log_line(stream.done, part.fields, means, seconds))
            if before > first:  # the first part warms up
                timed_steps += stream.done - before
                timed_seconds += time.monotonic() - start_time
            pace = timed_seconds / timed_steps if timed_steps else None
            _show_progress(stream.done, steps, means, pace)
            if stream.done // checkpoint_every > before // checkpoint_every:
                saved = _save(stream, checkpoints, workdir)
        signal = stopped()
        if saved != stream.done and stream.done:
            _save(stream, checkpoints, workdir)
        checkpoints.wait()
    return stream, signal


def check_complete(stream: StreamState, signal: int | None, workdir: Path, *, least: int = 1) -> None:
    """Raise Interrupted if a signal stopped the stream, or the time was over before `least` batches."""
    if signal or stream.done < least:
        raise Interrupted(
            f"stopped after batch {stream.done}; the same command goes on from {workdir}", signal
        )


def check_finite(loss: np.ndarray, step: int, saved: int | None, trials: Trials) -> None:
    """Raise NonFiniteError if a trial's loss [trial] is not finite; of a grid, only if none is finite."""
    finite = np.isfinite(loss)
    if finite.all() or (trials.values and finite.any()):
        return
    back = f"the checkpoint of step {saved} is before it" if saved else "there is no checkpoint before it"
    seed = trials.seeds[int(np.argmin(finite))]
    raise NonFiniteError(f"up to step {step}: the loss of seed {seed} is not finite; {back}; lower the rates")


def log_line(
    done: int, fields: Mapping[str, Any], means: Mapping[str, np.ndarray], seconds: float
) -> dict[str, Any]:
    """Compose a line of the log: the mean of each number over trials and, of several, the number of each."""
    line: dict[str, Any] = {"step": done, "split": "train", **fields}
    for name, values in means.items():
        finite = values[np.isfinite(values)]
        line[name] = float(finite.mean()) if finite.size else None
        if values.size > 1:
            line[f"{name}_by_trial"] = [float(v) if math.isfinite(v) else None for v in values]
    return {name: value for name, value in line.items() if value is not None} | {"seconds": round(seconds, 3)}


def restrict_line(line: Mapping[str, Any], trials: slice) -> dict[str, Any]:
    """Restrict a line of the log to some of the trials."""
    restricted = dict(line)
    for name, values in line.items():
        if name.endswith("_by_trial"):
            finite = [value for value in values[trials] if value is not None]
            restricted[name] = values[trials]
            restricted[name.removesuffix("_by_trial")] = float(np.mean(finite)) if finite else None
    return restricted


def _resume(stream: StreamState, checkpoints: Checkpoints, workdir: Path) -> tuple[StreamState, int | None]:
    """Restore the last checkpoint; also returns its step, None if there is none."""
    restored = checkpoints.restore(_as_checkpoint(stream))
    if restored is None:
        return stream, None
    done, state, meta = restored
    records = _read_records(workdir / RECORDS, done)
    return StreamState(state.meta, state.model_state, done, meta["seconds"], records), done


def _save(stream: StreamState, checkpoints: Checkpoints, workdir: Path) -> int:
    """Write a checkpoint; returns its step."""
    if stream.records:  # before the checkpoint, which must never be ahead of them
        write_arrays(workdir / RECORDS, stream.records)
    checkpoints.save(stream.done, _as_checkpoint(stream), {"seconds": stream.seconds, "best": None})
    return stream.done


def _as_checkpoint(stream: StreamState) -> LearnerState:
    step = jnp.asarray(stream.done, jnp.int32)
    return LearnerState(step, stream.states, stream.snapshots, (), jax.random.key(0))


def _append(records: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Append records along their steps, [trial, step]."""
    return {name: np.concatenate([records.get(name, new[name][:, :0]), new[name]], 1) for name in new}


def _read_records(path: Path, done: int) -> dict[str, np.ndarray]:
    """Read the records up to a checkpoint, {} if nothing is recorded."""
    if not path.exists():
        return {}
    try:
        with np.load(path) as file:
            records = {name: file[name][:, :done] for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy raise whatever the damage leads to
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} is damaged ({reason}); remove {path.parent} to start anew") from error
    if any(values.shape[1] < done for values in records.values()):
        raise CheckpointError(f"{path} ends before step {done}; remove {path.parent} to start anew")
    return records


def _show_progress(done: int, steps: int, means: Mapping[str, np.ndarray], pace: float | None) -> None:
    """Print the batches that are done, the time left at `pace` seconds a batch, and means over trials."""
    left = [] if pace is None else [f"left {clock_text(pace * (steps - done))} + test"]
    names = [name for name in ("loss", "accuracy") if name in means]
    metrics = [f"{name} {np.nanmean(means[name]):.4g}" for name in names]
    columns = terminal_columns(sys.stderr)
    announce(join_parts([f"batch {done}/{steps}", *left, *metrics], columns and columns - 1))
