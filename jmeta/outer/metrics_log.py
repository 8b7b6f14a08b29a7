"""metrics.jsonl, a line per logged step, and the same as TensorBoard events."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

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
        from tensorboardX import SummaryWriter

        self.directory.mkdir(parents=True, exist_ok=True)
        _cut(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        # The suffix keeps apart the files of two starts within one second.
        self._events = SummaryWriter(
            str(self.directory / "tensorboard"), purge_step=step + 1, filename_suffix=f".{step}"
        )

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl, with null for non-finite numbers, and its finite numbers, but no
        lists, to the events as <split>/<metric>."""
        if self._file is None:
            return
        line = {name: _with_null(value) for name, value in line.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in line.items():
            if name not in ("step", "split") and isinstance(value, int | float):
                self._events.add_scalar(f"{line['split']}/{name}", value, line["step"])
        self._events.flush()

    def close(self) -> None:
        """Close both files; `start` opens them again."""
        if self._file is not None:
            self._file.close()
            self._events.close()
            self._file = self._events = None


def _with_null(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics.jsonl; [] if there is no file, and without a truncated last line.

    Raises ValueError, naming the line, if another line is damaged.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is damaged ({error}); remove it") from error
    return records


def _cut(path: Path, step: int) -> None:
    """Keep the whole lines up to `step`."""
    lines = [json.dumps(record) + "\n" for record in read_metrics(path) if record["step"] <= step]
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(path)
