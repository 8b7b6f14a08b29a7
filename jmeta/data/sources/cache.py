"""A cache of decoded images on disk: Omniglot takes seconds to decode and milliseconds to map."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jmeta.data.sources.guard import check_plain, read_json
from jmeta.data.sources.images import ImageClasses
from jmeta.data.sources.locate import expand
from jmeta.data.sources.store import walk

_FORMAT = 3  # of the files and of the decoding; a change leaves the old files unused
_BLOCK = 1 << 20  # bytes


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

    Entries are written whole and may be deleted at any time; each is compared with its checksum when it is
    read. A damaged entry, or a folder that is not known or cannot be written, costs time and nothing else.
    """
    if cache is False:
        return build()
    try:
        folder = _default_folder() if cache is True else expand(cache)
        entry = folder / f"{facts['name']}-{_digest(paths, facts)}"
    except Exception as error:  # no home folder, a link to nothing: `build` is the one to say if it matters
        logging.warning("decoded images are not cached: %s", error)
        return build()
    images = _read(entry)
    if images is None:
        images = build()
        _write(entry, images)
    return images


def _default_folder() -> Path:
    variable = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(variable):  # its standard: then it is void
        return expand("~/.cache", "set XDG_CACHE_HOME") / "jmeta"
    return Path(variable) / "jmeta"


def _digest(paths: Sequence[Path], facts: dict[str, Any]) -> str:
    hashed = hashlib.sha256(json.dumps([_FORMAT, facts], sort_keys=True).encode())
    for path in paths:
        hashed.update(os.fsencode(path.resolve()) + b"\n")
        files, folders = walk(path) if path.is_dir() else ([""], [])
        for name in sorted(folders):  # an empty one is an error of `build`
            hashed.update(os.fsencode(name) + b"/\n")
        for name in sorted(files):
            status = os.stat(path / name)
            facts_of_file = f"\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_mode}\n"
            hashed.update(os.fsencode(name) + facts_of_file.encode())
    return hashed.hexdigest()[:20]


def _read(entry: Path) -> ImageClasses | None:
    """Return the images of an entry, or None if it is absent, damaged, or another entry under its name."""
    try:
        index = read_json(entry / "index.json")
        crc = index.pop("crc32")
        size = index["size"]  # compared first: a file of another size may take minutes to read
        if size != os.stat(entry / "examples.npy").st_size or crc != _checksum(entry, index, entry.name):
            return None
        del index["size"]
        examples = np.lib.format.open_memmap(entry / "examples.npy", mode="r")
        return _check(ImageClasses(examples, **{field: tuple(values) for field, values in index.items()}))
    except Exception:  # damage may raise anything
        return None


def _checksum(entry: Path, index: dict[str, Any], name: str) -> int:
    """Compute the CRC-32 of the examples in the folder `entry`, the `index` and the entry's `name`."""
    check_plain(entry / "examples.npy")
    with (entry / "examples.npy").open("rb") as file:
        crc = 0
        for block in iter(partial(file.read, _BLOCK), b""):
            crc = zlib.crc32(block, crc)
    return zlib.crc32(json.dumps([name, index], sort_keys=True).encode(), crc)


def _check(images: ImageClasses) -> ImageClasses | None:
    """Return the images if they may be a result of `load_images`, or else None."""
    examples, classes, counts, notes = images
    fits = (
        examples.dtype == np.uint8
        and examples.ndim == 4
        and all(isinstance(text, str) for text in (*classes, *notes))
        and all(type(count) is int and count > 0 for count in counts)
        and len(set(classes)) == len(classes) == len(counts) > 0
        and sum(counts) == len(examples)
    )
    return images if fits else None


def _write(entry: Path, images: ImageClasses) -> None:
    temporary = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=entry.parent))
        np.save(temporary / "examples.npy", images.examples, allow_pickle=False)
        index = images._asdict()
        del index["examples"]
        index["size"] = os.stat(temporary / "examples.npy").st_size
        index["crc32"] = _checksum(temporary, index, entry.name)
        (temporary / "index.json").write_text(json.dumps(index), "utf-8")
        if _read(entry) is None:
            _remove(entry)  # damaged
        os.replace(temporary, entry)
    except Exception as error:  # a disk that is full or read-only, and the like
        if _read(entry) is None:  # or else another process was faster
            logging.warning("decoded images are not cached: %s", error)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
