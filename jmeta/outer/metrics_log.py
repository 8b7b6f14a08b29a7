"""metrics.jsonl, a line per logged step, and the same as TensorBoard events."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from jmeta.outer.files import naming, read_plain, write_whole

CLOCK_FIELDS = ("seconds", "tasks_per_second")  # all other fields are equal in a run that was resumed


class MetricsLog:
    """Writes `directory`/metrics.jsonl and `directory`/tensorboard, from the first process alone.

    Lines are {"step": int, "split": "train" or "validation", metric: number, ...}; metrics.jsonl is the
    source of truth, and every line is flushed.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.path = self.directory / "metrics.jsonl"
        self._file: Any = None
        self._events: Any = None

    def start(self, step: int) -> None:
        """Open the log of a run that has taken `step` steps, and cut off all later lines.

        Must be called before `write`.
        """
        self.close()
        if jax.process_index() != 0:
            return
        with naming(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        _cut(self.path, step)
        with naming(self.path):
            self._file = self.path.open("a", encoding="utf-8")
        self._events = _Events(self.directory / "tensorboard", step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl, with null for non-finite numbers, and its finite numbers, but no
        lists, to the events as <split>/<metric>."""
        if self._file is None:
            return
        line = {name: _with_null(value) for name, value in line.items()}
        with naming(self.path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        numbers = {
            f"{line['split']}/{name}": value
            for name, value in line.items()
            if name not in ("step", "split") and isinstance(value, int | float)
        }
        self._events.write(line["step"], numbers)

    def close(self) -> None:
        """Close both files; `start` opens them again."""
        file, events, self._file, self._events = self._file, self._events, None, None
        if events is not None:
            events.close()
        if file is not None:
            with naming(self.path):
                file.close()


def write_outcome(
    directory: str | Path,
    step: int,
    *,
    numbers: Mapping[str, float],
    texts: Mapping[str, str],
    images: Mapping[str, Any],
) -> None:
    """Add the outcome of a run of `step` steps to `directory`/tensorboard.

    `numbers` such as {"test/accuracy": 0.9}, `texts` in Markdown, and `images` of bytes [height, width, 3].
    """
    from tensorboardX.summary import image, text

    events = _Events(Path(directory) / "tensorboard", step, "outcome")
    try:
        events.write(step, {name: value for name, value in numbers.items() if math.isfinite(value)})
        summaries = [text(name, content) for name, content in texts.items()]
        summaries += [image(name, pixels, dataformats="HWC") for name, pixels in images.items()]
        events.add(step, summaries)
    finally:
        events.close()


class _Events:
    """A file of TensorBoard events in `folder`, for a run that has taken `step` steps.

    The suffix keeps apart the files of two starts within one second.

    Written in this thread: one of its own would die of a full disk, and leave the run waiting for it.
    """

    def __init__(self, folder: Path, step: int, suffix: str = "log") -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder = folder
        with naming(folder):
            folder.mkdir(exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), f".{step}.{suffix}")
            purge = SessionLog(status=SessionLog.START)  # hides what an earlier file has from this step on
            self._write(Event(step=step + 1, session_log=purge))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append numbers of a step."""
        from tensorboardX.summary import scalar

        self.add(step, [scalar(name, value) for name, value in numbers.items()])

    def add(self, step: int, summaries: Iterable[Any]) -> None:
        """Append summaries of a step."""
        from tensorboardX.proto.event_pb2 import Event

        with naming(self._folder):
            for summary in summaries:
                self._write(Event(step=step, summary=summary))
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with naming(self._folder):
            self._writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)


def _with_null(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics.jsonl; [] if there is no file, and without a truncated last line.

    Other damaged lines, and those without a step and a split, are left out with a warning on standard error.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = read_plain(path, 1 << 30, errors="replace").split("\n")[:-1]
    records = {number: _parse(line) for number, line in enumerate(lines, start=1)}
    damaged = [number for number, record in records.items() if record is None]
    if damaged and jax.process_index() == 0:
        count = f"{len(damaged)} damaged line" + ("s" if len(damaged) > 1 else "")
        print(f"{path}: left out {count}, the first is line {damaged[0]}", file=sys.stderr)
    return [record for record in records.values() if record is not None]


def _parse(line: str) -> dict[str, Any] | None:
    """Parse a line; None if it is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return record if isinstance(record.get("split"), str) else None


def _cut(path: Path, step: int) -> None:
    """Keep the whole lines up to `step`."""
    with naming(path):
        lines = [json.dumps(record) + "\n" for record in read_metrics(path) if record["step"] <= step]
    write_whole(path, lambda temporary: temporary.write_text("".join(lines), encoding="utf-8"))
