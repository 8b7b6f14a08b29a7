"""Lines for people on a terminal or in a file; nothing here imports jax, so that the first comes at once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO


def show(text: str, *, stream: TextIO | None = None, stays: bool = True) -> None:
    """Print a line, on a terminal in the place of the last one that does not stay."""
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        stream.write(f"\r\x1b[K{text}" + ("\n" if stays else ""))
        stream.flush()
    else:
        print(text, file=stream, flush=True)


def terminal_columns(stream: TextIO) -> int | None:
    """Return the width of a terminal, None for a stream that is none."""
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or shutil.get_terminal_size().columns
    except (OSError, ValueError, AttributeError):  # no terminal of the system's
        return shutil.get_terminal_size().columns


def join_parts(parts: Sequence[str], columns: int | None = None) -> str:
    """Join parts of a line by two spaces, as many as fit into the columns; the first is cut to them."""
    if columns is None:
        return "  ".join(parts)
    text = parts[0][:columns]
    for part in parts[1:]:
        if len(text) + 2 + len(part) > columns:
            break
        text += f"  {part}"
    return text
