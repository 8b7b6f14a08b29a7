"""A cache of decoded images on disk: Omniglot takes seconds to decode and milliseconds to map."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jmeta.data.sources.images import ImageClasses
from jmeta.data.sources.store import walk

_FORMAT = 1  # of the files and of the decoding; a change leaves the old files unused


def cached(
    paths: Sequence[Path],
    facts: dict[str, Any],
    build: Callable[[], ImageClasses],
    cache: bool | str | os.PathLike[str] = True,
) -> ImageClasses:
    """Return `build()`, or its result from an earlier call with equal `facts` and unchanged `paths`.

    Args:
      paths: the files and folders that `build` reads.
      facts: everything else that its result depends on; "name" begins the entry's name.
      build: decodes the images.
      cache: the folder of the entries; True is $XDG_CACHE_HOME/jmeta (by default ~/.cache/jmeta), and False
        stores nothing.

    Entries are written whole and may be deleted at any time. A damaged entry, or a folder that cannot be
    written, costs time and nothing else.
    """
    if cache is False:
        return build()
    digest = _digest(paths, facts)
    entry = (_default_folder() if cache is True else Path(cache)) / f"{facts['name']}-{digest}"
    images = _read(entry)
    if images is None:
        images = build()
        _write(entry, images)
    return images


def _default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jmeta"


def _digest(paths: Sequence[Path], facts: dict[str, Any]) -> str:
    hashed = hashlib.sha256(json.dumps([_FORMAT, facts], sort_keys=True).encode())
    for path in paths:
        hashed.update(f"{path.resolve()}\n".encode())
        for name in sorted(walk(path)[0]) if path.is_dir() else [""]:
            status = os.stat(path / name)
            hashed.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return hashed.hexdigest()[:20]


def _read(entry: Path) -> ImageClasses | None:
    try:
        index = json.loads((entry / "index.json").read_text("utf-8"))
        examples = np.load(entry / "examples.npy", mmap_mode="r", allow_pickle=False)
        complete = list(examples.shape) == index["shape"] and examples.dtype == np.uint8
        fields = (tuple(index[field]) for field in ("classes", "counts", "notes"))
        return ImageClasses(examples, *fields) if complete else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _write(entry: Path, images: ImageClasses) -> None:
    temporary = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=entry.parent))
        np.save(temporary / "examples.npy", images.examples, allow_pickle=False)
        index = {"shape": images.examples.shape, **images._asdict()}
        del index["examples"]
        (temporary / "index.json").write_text(json.dumps(index), "utf-8")
        if _read(entry) is None:
            shutil.rmtree(entry, ignore_errors=True)  # damaged
        os.replace(temporary, entry)
    except OSError as error:
        if _read(entry) is None:  # or else another process was faster
            logging.warning("decoded images are not cached: %s", error)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
