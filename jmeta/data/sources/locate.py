"""Where data lie: the folder that was named, or else JMETA_DATA, then that of tensorflow-datasets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from jmeta.data.errors import DataError

Found = TypeVar("Found")


def roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders to look in: `data_dir` alone where it is given, or else $JMETA_DATA and the folder
    of tensorflow-datasets. Raises DataError where `data_dir` or $JMETA_DATA names nothing that exists."""
    if data_dir is not None:
        return [_existing(data_dir, "data_dir")]
    named = os.environ.get("JMETA_DATA")
    return [*([_existing(named, "JMETA_DATA")] if named else []), tfds_folder()]


def tfds_folder() -> Path:
    """Return the folder in which tensorflow-datasets keeps what it prepared."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def locate(
    name: str,
    find: Callable[[Path], Found | None],
    data_dir: str | os.PathLike[str] | None,
    *,
    folders: Sequence[str],
    expected: str,
) -> Found:
    """Return the first thing that `find(folder)` finds in the roots' subfolders `folders`, then in the roots.

    Raises DataError, naming where it looked and what it `expected` there, where nothing is found.
    """
    looked = roots(data_dir)
    for root in looked:
        for folder in (*(root / below for below in folders), root):
            if folder.exists() and (found := find(folder)) is not None:
                return found
    tried = [
        path for root in looked for path in (root, *(root / below for below in folders)) if path.is_dir()
    ]
    pickles = [path.name for folder in tried for path in folder.iterdir() if is_pickle(path)]
    refused = f" ({pickles[0]} is there, but pickles run code and are never loaded)" if pickles else ""
    raise DataError(
        f"{name}: no data found",
        " or ".join(str(root) for root in looked) + refused,
        f"expected {expected}, there or in a subfolder {folders[0]}/; "
        "name the folder with data_dir or JMETA_DATA",
    )


def is_pickle(path: Path) -> bool:
    """Say whether a file's name is that of a pickle, or of an archive that holds CIFAR as pickles."""
    return path.suffix in (".pkl", ".pickle") or path.name.startswith(("cifar-10-python", "cifar-100-python"))


def _existing(path: str | os.PathLike[str], origin: str) -> Path:
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{origin} names a folder that does not exist", path, "correct the path")
    return path
