"""Progress for people, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

import jax


def progress_text(line: Mapping[str, Any], steps: int) -> str:
    """Format a line of the metrics log: step, tasks per second, time left, and the metrics.

    `steps`: the last step of the run; the time left counts training alone.
    """
    words = [f"{line['split']} {line['step']}/{steps}"]
    if "tasks_per_second" in line:
        left = line["seconds"] / line["step"] * (steps - line["step"])
        words += [f"{line['tasks_per_second']:.1f} tasks/s", f"left {_clock(left)}"]
    if "compile_seconds" in line:
        words.append(f"compiled in {line['compile_seconds']:.1f} s")
    metrics = [name for name in ("loss", "accuracy", "horizon", "gradient_norm") if name in line]
    return "  ".join([*words, *(f"{name} {line[name]:.4g}" for name in metrics)])


def to_standard_error(line: Mapping[str, Any], steps: int, *, stream: TextIO | None = None) -> None:
    """Print a line of the metrics log: in place on a terminal, as plain lines elsewhere; process 0 only.

    Validations and the last step stay on a terminal's screen.
    """
    if jax.process_index() != 0:
        return
    stream = sys.stderr if stream is None else stream
    text = progress_text(line, steps)
    if not stream.isatty():
        print(text, file=stream, flush=True)
        return
    stays = line["split"] != "train" or line["step"] == steps
    stream.write(f"\r\x1b[K{text}" + ("\n" if stays else ""))
    stream.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
