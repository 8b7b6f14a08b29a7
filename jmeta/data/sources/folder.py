"""The user's own images: a folder, or a zip archive, with a folder of images for each class."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from jmeta.data.class_dataset import ClassDataset
from jmeta.data.episodes import from_splits
from jmeta.data.errors import DataError
from jmeta.data.source import SPLITS, Dataset, DatasetInfo
from jmeta.data.sources.authors import LICENSES
from jmeta.data.sources.cache import cached
from jmeta.data.sources.images import Decoding, File, ImageClasses, load_images, take
from jmeta.data.sources.locate import roots
from jmeta.data.sources.store import Store, open_store
from jmeta.data.splits import ClassSplit, split_by_seed

SHARES = {"train": 0.64, "validation": 0.16, "test": 0.2}  # of the classes; those of miniImageNet
_SPLIT_FOLDERS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation",
                  "test": "test"}  # fmt: skip


def from_folder(
    path: str | os.PathLike[str],
    image_size: int | None = None,
    *,
    color: bool | None = None,
    cache: bool | str = False,
) -> ClassDataset:
    """Load all classes of a folder, or zip archive, of class folders of images, in the order of their names.

    Args:
      path: the folder or archive.
      image_size: side in pixels to which images are resized (Pillow's Lanczos filter); None leaves their
        size, which must then be the same for all.
      color: True for three channels, False for one; None leaves them, and all images must then agree.
      cache: see `jmeta.data.sources.cache.cached`.

    Raises:
      DataError: for a missing or damaged file, an empty class, and mixed sizes or channels.
    """
    where = roots(path)[0]
    images = _images(where, Decoding(image_size, color), cache)
    return take(images, images.classes)


def folder(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    split: str | os.PathLike[str] | None = None,
    seed: int = 0,
    color: bool | None = None,
    cache: bool | str = True,
) -> Dataset:
    """Load the user's own images as a data set of three class splits.

    The classes are divided by the file `split`; else by folders train/, validation/ (or val/) and test/ above
    the class folders; else by `jmeta.data.splits.split_by_seed`, 64/16/20 %.

    Args:
      data_dir: a folder of class folders of images, <class>/<image>, or a zip of them; a class may lie
        deeper, and its name is then its path.
      image_size: see `from_folder`.
      split: a JSON file, {"train": [class, ...], "validation": [...], "test": [...]}.
      seed: of the division.
      color: see `from_folder`.
      cache: see `jmeta.data.sources.cache.cached`.

    Raises:
      DataError: for the reasons of `from_folder`, and if a class is in two splits.
    """
    if data_dir is None:
        raise DataError("folder: no folder is named", None, "name the folder of class folders with data_dir")
    where = roots(data_dir)[0]
    images = _images(where, Decoding(image_size, color), cache)
    classes, origin = _divide(images.classes, where, split, seed)
    info = DatasetInfo(where.stem, LICENSES["folder"], origin, classes, images.examples.shape[1:])
    return from_splits(info, {name: take(images, members) for name, members in classes.items()})


def _images(where: Path, decoding: Decoding, cache: bool | str) -> ImageClasses:
    settings = {"name": "folder", **decoding._asdict()}
    return cached([where], settings, partial(_load, where, decoding), cache)


def _load(where: Path, decoding: Decoding) -> ImageClasses:
    return load_images(class_files(open_store(where)), decoding)


def class_files(store: Store) -> dict[str, list[File]]:
    """Return the files of each class, named by its path below the deepest folder that holds all classes.

    Raises DataError if there is no image, one lies outside a class folder, or a class folder is empty.
    """
    layout = "expected a folder of images for each class, <class>/<image>"
    parents = {name: PurePosixPath(name).parent.as_posix() for name in store.files}
    if not parents:
        raise DataError("no image found", store.where, layout)
    inner = {parent for name in store.folders if (parent := PurePosixPath(name).parent.as_posix()) != "."}
    leaves = set(store.folders) - inner
    if empty := sorted(leaves - set(parents.values())):
        raise DataError(f"class folder {empty[0]!r} has no image", store.where, "fill it or remove it")
    if loose := [name for name, parent in parents.items() if parent == "." or parent in inner]:
        raise DataError(f"image {loose[0]!r} is in no class folder", store.where, layout)
    shared = os.path.commonpath([PurePosixPath(parent).parent for parent in parents.values()])
    files: dict[str, list[File]] = {}
    for name, parent in sorted(parents.items()):
        label = PurePosixPath(parent).relative_to(shared or ".").as_posix()
        files.setdefault(label, []).append(store.file(name))
    return dict(sorted(files.items()))


def _divide(
    classes: Sequence[str], where: Path, split: str | os.PathLike[str] | None, seed: int
) -> tuple[ClassSplit, str]:
    """Return the classes of each split, and the origin of the division."""
    if split is not None:
        return read_split_file(_split_file(Path(split), where), classes), f"the file {Path(split).name}"
    tops = {name.partition("/")[0] for name in classes if "/" in name}
    if all("/" in name for name in classes) and tops <= set(_SPLIT_FOLDERS):
        grouped: dict[str, list[str]] = {name: [] for name in SPLITS}
        for name in classes:
            grouped[_SPLIT_FOLDERS[name.partition("/")[0]]].append(name)
        return _check_classes(grouped, [name.partition("/")[2] for name in classes], where), "the folders"
    if len(classes) < 3:
        advice = "three splits need 3; give more classes, or load them alone with jmeta.from_folder"
        raise DataError(f"only {len(classes)} classes", where, advice)
    return split_by_seed(classes, seed, SHARES), f"by seed {seed}, 64/16/20 % of the classes"


def _split_file(split: Path, where: Path) -> Path:
    beside = where / split
    return split if split.exists() or not beside.exists() else beside


def read_split_file(path: Path, classes: Iterable[str]) -> ClassSplit:
    """Read a split file, JSON {"train": [class, ...], "validation": [...], "test": [...]}.

    Raises DataError if it cannot be read, lacks a split, or names a class that is unknown or named before.
    """
    try:
        lists = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        what = f"cannot read the split file ({error})"
        raise DataError(what, path, "correct the path or the file") from error
    if not (isinstance(lists, dict) and all(_is_list_of_names(lists.get(name)) for name in SPLITS)):
        advice = 'expected {"train": [class, ...], "validation": [...], "test": [...]}'
        raise DataError("the split file lacks a split", path, advice)
    grouped = {name: [str(label) for label in lists[name]] for name in SPLITS}
    named = [label for labels in grouped.values() for label in labels]
    if unknown := sorted(set(named) - set(classes)):
        what = f"the split file names {len(unknown)} classes that are not there, {unknown[0]!r} the first"
        raise DataError(what, path, "correct the names")
    return _check_classes(grouped, named, path)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(label, (str, int)) for label in value)


def _check_classes(grouped: Mapping[str, Sequence[str]], names: Sequence[str], where: Path) -> ClassSplit:
    if lacking := [split for split, members in grouped.items() if not members]:
        raise DataError(f"split {lacking[0]!r} has no class", where, "three splits are needed")
    if twice := sorted(name for name in set(names) if names.count(name) > 1):
        advice = "few-shot learning tests on new classes: give every class to one split"
        raise DataError(f"class {twice[0]!r} is in more than one split", where, advice)
    return {split: tuple(members) for split, members in grouped.items()}
