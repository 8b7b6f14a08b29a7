"""Folder trees and zip archives, read alike and without unpacking anything."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jmeta.data.errors import DataError
from jmeta.data.sources.guard import (
    LARGEST_IMAGE,
    check_directory,
    check_plain,
    quote,
    read_file,
    read_stream,
    reading,
)

_IMAGES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


class Store(NamedTuple):
    """A folder tree or an archive: its path `where`, the image `files` and all `folders` (relative names with
    "/", sorted), `read(name) -> bytes`, and the `others`, visible files that are no images that we read."""

    where: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    read: Callable[[str], bytes]
    others: tuple[str, ...] = ()

    def file(self, name: str) -> tuple[str, Callable[[], bytes]]:
        """Return a file's full name for messages, and the function that reads it."""
        return f"{self.where}{'/' if self.where.is_dir() else '!'}{name}", partial(self.read, name)


def open_store(path: Path) -> Store:
    """List the images of a folder tree or a zip archive.

    Hidden files are left out. Raises DataError for a path that is missing, cannot be read, is neither a
    folder nor a zip archive, is truncated, or contains a name twice or one that leads out of it; `read`
    raises it for a file that is damaged, is no plain file, or has more than `LARGEST_IMAGE` bytes.
    """
    with reading(path):
        if path.is_dir():
            return _folder(path)
        check_plain(path)
        with reading(path, "damaged or truncated zip archive", _advice(path)):
            return _zip(path)


def walk(root: Path) -> tuple[list[str], list[str]]:
    """Return the names of all files and folders under `root`, following links, hidden ones left out."""
    files: list[str] = []
    folders: list[str] = []
    visited: set[str] = set()
    for here, below, names in os.walk(root, followlinks=True):
        below[:] = [name for name in below if not name.startswith((".", "__MACOSX"))]
        if (real := os.path.realpath(here)) in visited:  # a link that leads back up
            below.clear()
            continue
        visited.add(real)
        relative = Path(here).relative_to(root).as_posix()
        prefix = "" if relative == "." else relative + "/"
        folders += [prefix + name for name in below]
        files += [prefix + name for name in names if not name.startswith(".")]
    return files, folders


def _folder(root: Path) -> Store:
    files, folders = walk(root)

    def read(name: str) -> bytes:
        return read_file(root / name, LARGEST_IMAGE)

    return Store(root, _images(files), tuple(sorted(folders)), read, _others(files))


def _zip(path: Path) -> Store:
    archive = zipfile.ZipFile(path)
    names = archive.namelist()
    files = [name for name in names if not name.endswith("/")]
    twice = [name for name, number in Counter(files).items() if number > 1]
    if twice:
        raise DataError(f"the archive has {quote(twice[0])} more than once", path, "make the archive anew")
    if outside := [name for name in names if name.startswith("/") or ".." in PurePosixPath(name).parts]:
        raise DataError(f"the archive has {quote(outside[0])}, outside of it", path, "make the archive anew")
    images = _images(files)
    check_directory(archive, set(names) - set(images))
    folders = {name.rstrip("/") for name in names if name.endswith("/")}
    for name in {name.rpartition("/")[0] for name in files}:
        folders.update(parent.as_posix() for parent in (PurePosixPath(name), *PurePosixPath(name).parents))

    def read(name: str) -> bytes:
        where = f"{path}!{name}"
        with reading(where, "damaged file in the archive"), archive.open(name) as member:
            return read_stream(member, LARGEST_IMAGE, where, archive.getinfo(name).file_size)

    folders = {name for name in folders if not _is_hidden(PurePosixPath(name))} - {"."}
    return Store(path, images, tuple(sorted(folders)), read, _others(files))


def _images(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if _is_image(PurePosixPath(name))))


def _others(names: list[str]) -> tuple[str, ...]:
    paths = map(PurePosixPath, names)
    return tuple(sorted(path.as_posix() for path in paths if not (_is_image(path) or _is_hidden(path))))


def _is_image(name: PurePosixPath) -> bool:
    return name.suffix.lower() in _IMAGES and not _is_hidden(name)


def _is_hidden(name: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def _advice(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(256).lstrip().lower()
    except OSError:
        start = b""
    if start.startswith((b"<!doctype", b"<html")):
        return "it is a web page, not an archive: the download was refused; fetch it in a browser"
    return "fetch it again"
