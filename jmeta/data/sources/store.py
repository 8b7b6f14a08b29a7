"""Folder trees and zip archives, read alike and without unpacking anything."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jmeta.data.errors import DataError

_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


class Store(NamedTuple):
    """A folder tree or an archive: its path `where`, the image `files` and all `folders` (relative names with
    "/", sorted), and `read(name) -> bytes`."""

    where: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    read: Callable[[str], bytes]

    def file(self, name: str) -> tuple[str, Callable[[], bytes]]:
        """Return a file's full name for messages, and the function that reads it."""
        return f"{self.where}{'/' if self.where.is_dir() else '!'}{name}", partial(self.read, name)


def open_store(path: Path) -> Store:
    """List the images of a folder tree or a zip archive.

    Hidden files, and files of other types, are skipped. Raises DataError for a path that is missing, cannot
    be read, is neither a folder nor a zip archive, is truncated, or contains the same name twice.
    """
    try:
        return _folder(path) if path.is_dir() else _zip(path)
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"damaged or truncated zip archive ({error})", path, _advice(path)) from error
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror or error})", path) from error


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
        try:
            return (root / name).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read ({error.strerror})", root / name) from error

    return Store(root, _images(files), tuple(sorted(folders)), read)


def _zip(path: Path) -> Store:
    archive = zipfile.ZipFile(path)
    names = archive.namelist()
    files = [name for name in names if not name.endswith("/")]
    twice = [name for name, number in Counter(files).items() if number > 1]
    if twice:
        raise DataError(f"the archive has {twice[0]!r} more than once", path, "make the archive anew")
    folders = {name.rstrip("/") for name in names if name.endswith("/")}
    for name in {name.rpartition("/")[0] for name in files}:
        folders.update(parent.as_posix() for parent in (PurePosixPath(name), *PurePosixPath(name).parents))

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            where = f"{path}!{name}"
            raise DataError(f"damaged file in the archive ({error})", where, "fetch it again") from error

    folders = {name for name in folders if not _is_hidden(PurePosixPath(name))} - {"."}
    return Store(path, _images(files), tuple(sorted(folders)), read)


def _images(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if _is_image(PurePosixPath(name))))


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
