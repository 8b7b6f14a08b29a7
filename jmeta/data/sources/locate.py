"""The search for data: in the folder that the user names, or else in JMETA_DATA, then where
tensorflow-datasets keeps its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from jmeta.data.errors import DataError
from jmeta.data.sources.guard import reading

_Located = TypeVar("_Located")
Download = Callable[[str], object]  # downloads and prepares the data set of a builder by its name


def roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders to search: `data_dir` alone if it is set, or else $JMETA_DATA and the folder of
    tensorflow-datasets. Raises DataError if `data_dir` or $JMETA_DATA names nothing that exists."""
    if data_dir is not None:
        return [_existing(data_dir, "data_dir")]
    variable = os.environ.get("JMETA_DATA")
    named = [_existing(variable, "JMETA_DATA")] if variable else []
    try:
        return [*named, tfds_folder()]
    except DataError:
        if named:
            return named
        raise


def tfds_folder() -> Path:
    """Return the folder in which tensorflow-datasets keeps the data sets that it prepares.

    Raises DataError if it is in the home folder and there is none.
    """
    variable = os.environ.get("TFDS_DATA_DIR")
    return expand(variable or "~/tensorflow_datasets", "name the folder with data_dir or JMETA_DATA")


def expand(path: str | os.PathLike[str], advice: str = "write the path without ~") -> Path:
    """Return `path` with the home folder in place of "~". Raises DataError with `advice` if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # an unknown user, or a container without HOME for a number as user
        raise DataError("the home folder is not known", path, advice) from error


def locate(
    name: str,
    find: Callable[[Path], _Located | None],
    data_dir: str | os.PathLike[str] | None,
    *,
    folders: Sequence[str],
    expected: str,
) -> _Located:
    """Return the first result of `find(folder)` in the subfolders `folders` of the roots, then in the roots.

    Raises DataError if there is none; it names the folders searched and the files `expected` in them.
    """
    searched, pickles = roots(data_dir), []
    for root in searched:
        for folder in (*(root / below for below in folders), root):
            with reading(folder, "cannot be searched"):
                if folder.exists() and (located := find(folder)) is not None:
                    return located
                if folder.is_dir():
                    pickles += [path.name for path in folder.iterdir() if is_pickle(path)]
    refused = f" ({pickles[0]} is there, but pickles run code and are never loaded)" if pickles else ""
    raise DataError(
        f"{name}: no data found",
        " or ".join(str(root) for root in searched) + refused,
        f"expected {expected}, there or in a subfolder {folders[0]}/; "
        "name the folder with data_dir or JMETA_DATA",
    )


def locate_or_download(look: Callable[[], _Located], builder: str, download: Download | None) -> _Located:
    """Return `look()`; if that finds no data, return it after `download(builder)`.

    Raises the DataError of `look`, with the advice to allow the download if there is no `download`.
    """
    try:
        return look()
    except DataError as error:
        if download is None:
            raise DataError(f"{error}, or allow the download with download=True") from error
    download(builder)
    return look()


def is_pickle(path: Path) -> bool:
    """Say whether a file has the name of a pickle, or of an archive of CIFAR as pickles."""
    return path.suffix in (".pkl", ".pickle") or path.name.startswith(("cifar-10-python", "cifar-100-python"))


def _existing(path: str | os.PathLike[str], origin: str) -> Path:
    path = expand(path)
    with reading(path):
        if not path.exists():
            raise DataError(f"{origin} names a folder that does not exist", path, "correct the path")
    return path
