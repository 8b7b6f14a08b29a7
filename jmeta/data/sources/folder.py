"""The user's own images: a folder, or a zip archive, with a folder of images for each class."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from jmeta.data.class_dataset import ClassDataset
from jmeta.data.episodes import from_splits
from jmeta.data.errors import DataError
from jmeta.data.source import Dataset, DatasetInfo
from jmeta.data.sources.authors import LICENSES
from jmeta.data.sources.cache import cached
from jmeta.data.sources.guard import quote
from jmeta.data.sources.images import Decoding, File, ImageClasses, load_images, take
from jmeta.data.sources.locate import expand, roots
from jmeta.data.sources.stated import (
    classes_left_out,
    classes_named_after_splits,
    divide_by_folders,
    read_split_file,
)
from jmeta.data.sources.store import Store, open_store
from jmeta.data.splits import ClassSplit, canonical_split, split_by_seed

SHARES = {"train": 0.64, "validation": 0.16, "test": 0.2}  # of the classes; those of miniImageNet
COLORS = {"auto": None, "rgb": True, "gray": False}
_LAYOUT = "expected a folder of images for each class, <class>/<image>"
# Files of these types are no images: that they are not read goes without saying.
_TEXTS = set(".csv .db .htm .html .ini .json .log .mat .md .pdf .py .rst .tsv .txt .xml .yaml .yml".split())


def from_folder(
    path: str | os.PathLike[str],
    image_size: int | None = None,
    *,
    color: str = "auto",
    classes: Sequence[str] | None = None,
    cache: bool | str = False,
) -> ClassDataset:
    """Load all classes of a folder, or zip archive, of class folders of images.

    Args:
      path: the folder or archive.
      image_size: side in pixels to which images are resized (Pillow's Lanczos filter); None leaves their
        size, which must then be the same for all.
      color: "rgb" for three channels, "gray" for one, "auto" for three if the file of any image has color
        channels or a palette. Transparent pixels are over white.
      classes: the names of the classes, in the order of their labels, by default those of the folders,
        sorted. Give the parts of a data set the same list: a class may have no images in one of them.
      cache: see `jmeta.data.sources.cache.cached`.

    Raises:
      DataError: for a missing or damaged file, an empty class, mixed sizes, and a folder that is not in
        `classes`; ValueError for another color.

    A warning is logged if files of types that are not read were left out, and if gray images are read as RGB.
    """
    where = roots(path)[0]
    images = _images(where, image_size, color, cache)
    for note in images.notes:
        logging.warning("%s: %s", where, note)
    names = images.classes if classes is None else tuple(classes)
    if unknown := sorted(set(images.classes) - set(names)):
        raise DataError(
            f"class folder {quote(unknown[0])} is not in `classes`", where, "add it, or remove the folder"
        )
    there = take(images, [name for name in names if name in images.classes])
    size = dict(zip(images.classes, images.counts))
    counts = np.array([size.get(name, 0) for name in names], np.int32)
    return there._replace(offsets=(np.cumsum(counts) - counts).astype(np.int32), counts=counts)


def folder(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    split: str | os.PathLike[str] | None = None,
    seed: int = 0,
    color: str = "auto",
    cache: bool | str = True,
) -> Dataset:
    """Load the user's own images as a data set of three class splits.

    The classes are divided by the file `split`; else by folders train/, validation/ and test/ above the class
    folders, also as `jmeta.data.splits.canonical_split` spells them; else, if no folder is named after a
    split, by `jmeta.data.splits.split_by_seed`, 64/16/20 %. Notes say what was left out: files of types that
    are not read, and classes that `split` does not name.

    Args:
      data_dir: a folder of class folders of images, <class>/<image>, or a zip of them; a class may lie
        deeper, and its name is then its path.
      image_size: see `from_folder`.
      split: a JSON file, {"train": [class, ...], "validation": [...], "test": [...]}, its path, or its name
        in `data_dir`.
      seed: of the division.
      color: see `from_folder`.
      cache: see `jmeta.data.sources.cache.cached`.

    Raises:
      DataError: for the reasons of `from_folder`, if a class is in two splits, and if the names of folders
        or keys are not understood; ValueError for another color.
    """
    if data_dir is None:
        raise DataError("folder: no folder is named", None, "name the folder of class folders with data_dir")
    where = roots(data_dir)[0]
    images = _images(where, image_size, color, cache)
    classes, origin, notes = _divide(images.classes, where, split, seed)
    shape, notes = images.examples.shape[1:], images.notes + notes
    info = DatasetInfo(where.stem, LICENSES["folder"], origin, classes, shape, notes)
    return from_splits(info, {name: take(images, members) for name, members in classes.items()})


def _images(where: Path, image_size: int | None, color: str, cache: bool | str) -> ImageClasses:
    if color not in COLORS:
        raise ValueError(f"color={color!r}; expected one of {', '.join(COLORS)}")
    decoding = Decoding(image_size, COLORS[color])
    settings = {"name": "folder", **decoding._asdict()}
    return cached([where], settings, partial(_load, where, decoding), cache)


def _load(where: Path, decoding: Decoding) -> ImageClasses:
    store = open_store(where)
    images = load_images(class_files(store), decoding)
    return images._replace(notes=images.notes + _files_left_out(store.others))


def class_files(store: Store) -> dict[str, list[File]]:
    """Return the files of each class, named by its path below the deepest folder that holds all classes, or
    below the folder that holds the one folder that is named after a split.

    Raises DataError if there is no image, one lies outside a class folder, or a class folder is empty.
    """
    parents = {name: PurePosixPath(name).parent.as_posix() for name in store.files}
    if not parents:
        left_out = "".join(f" ({note})" for note in _files_left_out(store.others))
        raise DataError(f"no image found{left_out}", store.where, _advice(store.others))
    inner = {parent for name in store.folders if (parent := PurePosixPath(name).parent.as_posix()) != "."}
    leaves = set(store.folders) - inner
    if empty := sorted(leaves - set(parents.values())):
        others = [name for name in store.others if name.startswith(f"{empty[0]}/")]
        left_out = "".join(f" ({note})" for note in _files_left_out(others))
        advice = _advice(others) if others else "fill it or remove it"
        raise DataError(f"class folder {quote(empty[0])} has no image{left_out}", store.where, advice)
    if loose := [name for name, parent in parents.items() if parent == "." or parent in inner]:
        raise DataError(f"image {quote(loose[0])} is in no class folder", store.where, _LAYOUT)
    shared = PurePosixPath(os.path.commonpath([PurePosixPath(parent).parent for parent in parents.values()]))
    named = [index for index, part in enumerate(shared.parts) if canonical_split(part)]
    root = PurePosixPath(*shared.parts[: named[0]] if named else shared.parts)
    files: dict[str, list[File]] = {}
    for name, parent in sorted(parents.items()):
        files.setdefault(PurePosixPath(parent).relative_to(root).as_posix(), []).append(store.file(name))
    return dict(sorted(files.items()))


def _files_left_out(names: Sequence[str]) -> tuple[str, ...]:
    """Return a note on the files that are neither images that are read nor texts, by their endings."""
    endings = Counter(PurePosixPath(name).suffix.lower() or "without an ending" for name in names)
    unread = [f"{number} {ending}"[:40] for ending, number in sorted(endings.items()) if ending not in _TEXTS]
    unread = unread[:10] + ["and others"] * (len(unread) > 10)
    return (f"files of types that are not read were left out: {', '.join(unread)}",) if unread else ()


def _advice(others: Sequence[str]) -> str:
    return "convert them to PNG or JPEG" if _files_left_out(others) else _LAYOUT


def _divide(
    classes: Sequence[str], where: Path, split: str | os.PathLike[str] | None, seed: int
) -> tuple[ClassSplit, str, tuple[str, ...]]:
    """Return the classes of each split, the origin of the division, and notes on it."""
    if split is not None:
        path = _split_file(expand(split), where)
        division = read_split_file(path, classes)
        return division, f"the file {path.name}", classes_left_out(division, classes)
    stated = divide_by_folders(classes, where)
    if stated is not None:
        return stated, "the folders", ()
    if len(classes) < 3:
        advice = "three splits need 3; give more classes, or load them alone with jmeta.from_folder"
        raise DataError(f"only {len(classes)} classes", where, advice)
    origin = f"by seed {seed}, 64/16/20 % of the classes"
    return split_by_seed(classes, seed, SHARES), origin, classes_named_after_splits(classes)


def _split_file(split: Path, where: Path) -> Path:
    beside = where / split
    return split if split.exists() or not beside.exists() else beside
