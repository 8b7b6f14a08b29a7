"""The search for data: in the folder that the user names, or else in JMETA_DATA, then where
tensorflow-datasets keeps its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from jmeta.data.errors import DataError

_Located = TypeVar("_Located")
Download = Callable[[str], object]  # downloads and prepares the data set of a builder by its name


def roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders to search: `data_dir` alone if it is set, or else $JMETA_DATA and the folder of
    tensorflow-datasets. Raises DataError if `data_dir` or $JMETA_DATA names nothing that exists."""
    if data_dir is not None:
        return [_existing(data_dir, "data_dir")]
    variable = os.environ.get("JMETA_DATA")
    return [*([_existing(variable, "JMETA_DATA")] if variable else []), tfds_folder()]


def tfds_folder() -> Path:
    """Return the folder in which tensorflow-datasets keeps the data sets that it prepares."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


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
    searched = roots(data_dir)
    for root in searched:
        for folder in (*(root / below for below in folders), root):
            if folder.exists() and (located := find(folder)) is not None:
                return located
    tried = [
        path for root in searched for path in (root, *(root / below for below in folders)) if path.is_dir()
    ]
    pickles = [path.name for folder in tried for path in folder.iterdir() if is_pickle(path)]
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
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{origin} names a folder that does not exist", path, "correct the path")
    return path
