"""Progress for people, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

import jax

from jmeta.outer.screen import join_parts, show, terminal_columns


def progress_text(line: Mapping[str, Any], steps: int, columns: int | None = None) -> str:
    """Format a line of the metrics log: step, tasks per second, time left, and the metrics.

    Args:
      line: of the log; in "left", the seconds that are left, in "uncounted" what these do not count, and in
        "at_most" whether they are a bound.
      steps: the last step of the run.
      columns: the most characters; parts that do not fit are left out whole, as half a number misleads.
    """
    parts = [f"{line['split']} {line['step']}/{steps}"]
    if "tasks_per_second" in line and "compile_seconds" not in line:  # the first step warms up
        parts.append(f"{line['tasks_per_second']:.1f} tasks/s")
    if "left" in line:
        beside = f" + {line['uncounted']}" if line.get("uncounted") else ""
        most = "at most " if line.get("at_most") else ""
        parts.append(f"left {most}{clock_text(line['left'])}{beside}")
    if "compile_seconds" in line:
        parts.append(f"compiled in {line['compile_seconds']:.1f} s")
    metrics = [name for name in ("loss", "accuracy", "horizon", "gradient_norm") if name in line]
    return join_parts([*parts, *(f"{name} {line[name]:.4g}" for name in metrics)], columns)


def clock_text(seconds: float) -> str:
    """Format a time as 1:05, or 2:01:05 from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def to_standard_error(line: Mapping[str, Any], steps: int, *, stream: TextIO | None = None) -> None:
    """Print a line of the metrics log: in place on a terminal, as plain lines elsewhere; process 0 only.

    Validations and the last step stay on a terminal's screen.
    """
    if jax.process_index() != 0:
        return
    stream = sys.stderr if stream is None else stream
    stays = line["split"] != "train" or line["step"] == steps
    columns = terminal_columns(stream)
    show(progress_text(line, steps, columns and columns - 1), stream=stream, stays=stays)


def announce(text: str, *, stream: TextIO | None = None) -> None:
    """Print a line for people, such as what begins and will be silent; process 0 only."""
    if jax.process_index() == 0:
        show(text, stream=stream)
