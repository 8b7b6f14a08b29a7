"""Data sets that come as folders of photographs by class, with class lists of the literature.

miniImageNet and tieredImageNet are parts of ILSVRC-2012; neither it nor CUB may be passed on, so these read
the copy that the user has fetched. Photographs are resized to a square by area averaging, without cropping.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jmeta.data import splits
from jmeta.data.episodes import from_splits
from jmeta.data.errors import DataError
from jmeta.data.source import SPLITS, Dataset, DatasetInfo
from jmeta.data.sources.authors import LICENSES, PUBLISHED_SPLITS
from jmeta.data.sources.cache import cached
from jmeta.data.sources.images import Decoding, File, ImageClasses, check_image_counts, load_images, take
from jmeta.data.sources.locate import locate
from jmeta.data.sources.store import open_store

_IMAGES_PER_CLASS = 600  # of miniImageNet
_PLACES = ("", "images", "CUB_200_2011/images")  # beside the folders of splits, however spelled
_ILSVRC = re.compile(r"n\d{8}_(\d+)\.jpe?g", re.IGNORECASE)


class _Published(NamedTuple):
    name: str
    split: str
    classes: splits.ClassSplit
    folders: tuple[str, ...]
    images: int  # in all

    @property
    def class_names(self) -> list[str]:
        """The classes of all splits, in order."""
        return [name for names in self.classes.values() for name in names]


def mini_imagenet(
    *, data_dir: str | os.PathLike[str] | None = None, image_size: int = 84, cache: bool | str = True
) -> Dataset:
    """Load miniImageNet (Vinyals et al. 2016; classes and images of Ravi and Larochelle 2017).

    Images are [image_size, image_size, 3].

    Args:
      data_dir: the folder (else $JMETA_DATA) with folders <wnid>/ of images, or those below train/, val/ and
        test/, in any spelling of `jmeta.data.splits.canonical_split`, or a zip of them: 600 images a class,
        or the training images of ILSVRC-2012 (`<wnid>_<id>.JPEG`), of which the published 600 are taken.
      image_size: height and width in pixels.
      cache: see `jmeta.data.sources.cache.cached`.

    Raises:
      DataError: if the data are missing, damaged or incomplete.
    """
    return _load("mini_imagenet", data_dir, image_size, cache)


def tiered_imagenet(
    *, data_dir: str | os.PathLike[str] | None = None, image_size: int = 84, cache: bool | str = True
) -> Dataset:
    """Load tieredImageNet (Ren et al. 2018), all training images of ILSVRC-2012 of its 608 classes.

    Arguments and errors are those of `mini_imagenet`. The images take 16 GB at 84x84.
    """
    return _load("tiered_imagenet", data_dir, image_size, cache)


def cub(
    *, data_dir: str | os.PathLike[str] | None = None, image_size: int = 84, cache: bool | str = True
) -> Dataset:
    """Load Caltech-UCSD Birds 200-2011 with the class lists of Chen et al. 2019, whole photographs.

    `data_dir` (else $JMETA_DATA) has the authors' CUB_200_2011/images/<NNN.Name>/ or those class folders; the
    rest is as in `mini_imagenet`.
    """
    return _load("cub", data_dir, image_size, cache)


def locate_class_folders(data_dir: str | os.PathLike[str] | None, *, name: str) -> list[Path]:
    """Return the class folders, or the one zip archive, of a data set in `data_dir` or the usual folders.

    Raises DataError if there are none, or not all.
    """
    published = _published(name)
    classes = published.class_names
    return locate(
        name,
        partial(_find, published, classes),
        data_dir,
        folders=published.folders,
        expected=f"{len(classes)} class folders such as {classes[0]}/, below train/, val/, test/ or not",
    )


def _published(name: str) -> _Published:
    """Return the class lists of the literature and the usual folders of a data set."""
    if name == "mini_imagenet":
        folders = ("mini_imagenet", "mini-imagenet", "miniImageNet", "miniImagenet")
        return _Published(name, "ravi", splits.published_split("mini_imagenet_ravi"), folders, 60000)
    lists = splits.published_split(name)
    if name == "cub":
        return _Published(name, "chen", lists, ("cub", "CUB", "CUB_200_2011", "caltech_birds2011"), 11788)
    folders = ("tiered_imagenet", "tiered-imagenet", "tieredImageNet", "tieredImagenet")
    classes = {split: tuple(entry.partition(",")[0] for entry in entries) for split, entries in lists.items()}
    return _Published(name, "ren", classes, folders, 779165)


def _load(name: str, data_dir: str | os.PathLike[str] | None, image_size: int, cache: bool | str) -> Dataset:
    published, paths = _published(name), locate_class_folders(data_dir, name=name)
    classes = published.class_names
    decoding = Decoding(image_size, color=True, filter="area")
    settings = {"name": published.name, **decoding._asdict()}
    images = cached(paths, settings, partial(_decode, published.name, paths, classes, decoding), cache)
    notes = images.notes
    if sum(images.counts) != published.images:
        notes += (f"{sum(images.counts)} images where the published data set has {published.images}",)
    shape, origin = images.examples.shape[1:], PUBLISHED_SPLITS[published.name][published.split]
    info = DatasetInfo(published.name, LICENSES[published.name], origin, published.classes, shape, notes)
    return from_splits(info, {split: take(images, names) for split, names in published.classes.items()})


def _find(published: _Published, classes: Sequence[str], folder: Path) -> list[Path] | None:
    """Return the class folders, in the order of `classes`, or a list of one zip archive."""
    if folder.is_file():
        return [folder]
    archives = [folder / f"{name}.zip" for name in published.folders]
    if there := [path for path in archives if path.is_file()]:
        return there[:1]
    there = sorted(folder.iterdir())
    parts = [path for split in SPLITS for path in there if splits.canonical_split(path.name) == split]
    places = [path for path in (*(folder / place for place in _PLACES), *parts) if path.is_dir()]
    paths = {
        name: next((place / name for place in places if (place / name).is_dir()), None) for name in classes
    }
    missing = [name for name, path in paths.items() if path is None]
    if len(missing) == len(classes):
        return None
    if missing:
        what = f"{len(missing)} of {len(classes)} class folders are missing, {missing[0]} the first"
        raise DataError(f"{published.name}: {what}", folder, "complete the folders")
    return [path for path in paths.values() if path is not None]


def _decode(name: str, paths: Sequence[Path], classes: Sequence[str], decoding: Decoding) -> ImageClasses:
    files: dict[str, list[File]] = {label: [] for label in classes}
    for path in paths:
        store = open_store(path)
        for member in store.files:
            label = PurePosixPath(member).parent.name if path.is_file() else path.name
            if label in files:
                files[label].append(store.file(member))
    if empty := [label for label, members in files.items() if not members]:
        where = paths[0] if paths[0].is_file() else paths[classes.index(empty[0])]
        what = f"class {empty[0]!r} has no image ({len(empty)} such classes)"
        raise DataError(what, where, "complete the data")
    if name != "mini_imagenet":
        return load_images(files, decoding)
    chosen = image_numbers()
    files = {label: _published_images(label, members, chosen[label]) for label, members in files.items()}
    images = load_images(files, decoding)
    check_image_counts(images, classes, _IMAGES_PER_CLASS, paths[0])
    return images


def image_numbers() -> dict[str, list[int]]:
    """Return the published images of each class of miniImageNet, as numbers from 1 (splits/README.md)."""
    parts = splits.read_lists("mini_imagenet_ravi_images")["images"].values()
    return {label: chosen for part in parts for label, chosen in part.items()}


def _published_images(label: str, files: Sequence[File], numbers: Sequence[int]) -> list[File]:
    """Select the 600 images of a class of miniImageNet from those of ILSVRC-2012; 600 files are all taken."""
    if len(files) == len(numbers):
        return list(files)
    ids: Mapping[str, re.Match[str] | None] = {
        where: _ILSVRC.search(PurePosixPath(where).name) for where, _ in files
    }
    if len(files) < max(numbers) or not all(ids.values()):
        raise DataError(
            f"class {label} has {len(files)} images",
            files[0][0],
            f"expected the {len(numbers)} published ones, or all training images of ILSVRC-2012 under their "
            "names <wnid>_<id>.JPEG",
        )
    ranked = sorted(files, key=lambda file: int(ids[file[0]].group(1)))  # type: ignore[union-attr]
    return [ranked[number - 1] for number in numbers]
