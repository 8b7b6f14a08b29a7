"""Occupying the folder of a run: whether it may be used, its lock, and its removal if nothing was written."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UsageError, describe_os_error, remedy
from experiments.lock import lock
from experiments.workdir import read_json
from jmeta.outer.checkpoint import name_differences

_FILES = ("config.json", "metrics.jsonl", "eval.npz", "results.json", "records.npz", ".lock")
_FOLDERS = ("checkpoints", "tensorboard", "pretraining")
_CONTENT = ("results.json", "metrics.jsonl", "checkpoints/[0-9]*", "pretraining/*")  # of a run that has begun


@contextlib.contextmanager
def occupy(workdir: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Make and lock the folder of a run with this identity; it is removed at the end if nothing is in it.

    Raises UsageError if the folder is another run's, in use, or cannot be used.
    """
    _check_identity(workdir, identity)
    with contextlib.ExitStack() as stack:
        try:
            os.fspath(workdir).encode()
            _check_places(workdir)
            stack.enter_context(new_folder(workdir))
            stack.enter_context(lock(workdir))
        except UnicodeEncodeError:
            raise UsageError(f"--workdir={os.fsencode(workdir)!r}: no UTF-8; give another name") from None
        except OSError as error:
            advice = ", or ".join(filter(None, [remedy(error), "give another"]))
            raise UsageError(f"--workdir={workdir}: {describe_os_error(error)}; {advice}") from error
        yield


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make a folder, with those above it, and remove those that were made if they are empty at the end."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        if missing:
            with contextlib.suppress(OSError):
                (folder / "checkpoints").rmdir()
        for path in missing:
            with contextlib.suppress(OSError):  # not empty, or not made
                path.rmdir()


def _check_identity(workdir: Path, identity: Mapping[str, Any]) -> None:
    """Raise UsageError if the folder holds something of a run with another identity."""
    theirs = (read_json(workdir / "config.json") or {}).get("identity")
    differences = name_differences(identity, theirs) if isinstance(theirs, dict) else ""
    if differences and any(_has_content(path) for pattern in _CONTENT for path in workdir.glob(pattern)):
        raise UsageError(
            f"{workdir} holds another run: {differences}; give its settings or another --workdir"
        )


def _has_content(path: Path) -> bool:
    return path.is_dir() or path.stat().st_size > 0


def _check_places(workdir: Path) -> None:
    """Raise UsageError for a file in the place of a folder, or a folder in the place of a file."""
    places = [(workdir, "folder"), *((workdir / name, "folder") for name in _FOLDERS)]
    for path, kind in [*places, *((workdir / name, "file") for name in _FILES)]:
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        other = "no plain file" if kind == "file" else "a file"
        if not (stat.S_ISDIR(mode) if kind == "folder" else stat.S_ISREG(mode)):
            raise UsageError(f"{path} is {other}; expected a {kind}: move it away, or give another --workdir")
