"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): 60,000 images to train, 10,000 to test."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jmeta.data.class_dataset import ClassDataset, from_arrays
from jmeta.data.episodes import from_splits
from jmeta.data.errors import DataError
from jmeta.data.source import Dataset, DatasetInfo
from jmeta.data.sources.authors import LICENSES, PUBLISHED_SPLITS, checksum_notes
from jmeta.data.sources.guard import quote
from jmeta.data.sources.idx import read_idx
from jmeta.data.sources.images import Decoding, decode
from jmeta.data.sources.locate import Download, locate, locate_or_download
from jmeta.data.sources.prepared import find_prepared, is_prepared, read_prepared

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
EXPECTED_FILES = ", ".join(name for names in FILES.values() for name in names) + " (gzipped or not)"
LABEL_NAMES = {
    "mnist": tuple(str(digit) for digit in range(10)),
    "fashion_mnist": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
                      "Bag", "Ankle boot"),
}  # fmt: skip
_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw"),
    "fashion_mnist": ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
}
_SIZES = {"train": 60_000, "test": 10_000}


class LabeledImages(NamedTuple):
    """Images [example, height, width, 1] uint8 and their labels [example] uint8, in the authors' order."""

    images: np.ndarray
    labels: np.ndarray


def mnist(*, data_dir: str | os.PathLike[str] | None = None, download: Download | None = None) -> Dataset:
    """Load MNIST, images [28, 28, 1], ink 255 on 0, as splits "train" and "test" grouped by digit.

    Args:
      data_dir: the folder (else $JMETA_DATA) with the authors' four idx files, gzipped or not, or with the
        data set that tensorflow-datasets prepared.
      download: prepares the data by tensorflow-datasets if they are not found.

    Raises:
      DataError: if the data are missing, damaged or incomplete.
    """
    return _load("mnist", data_dir, download)


def fashion_mnist(
    *, data_dir: str | os.PathLike[str] | None = None, download: Download | None = None
) -> Dataset:
    """Load Fashion-MNIST, articles of clothing in MNIST's form, with the arguments of `mnist`."""
    return _load("fashion_mnist", data_dir, download)


def _load(name: str, data_dir: str | os.PathLike[str] | None, download: Download | None) -> Dataset:
    paths = locate_or_download(partial(locate_mnist, data_dir, name=name), f"jmeta_{name}", download)
    notes: tuple[str, ...] = ()
    if is_prepared(paths[0]):
        parts = {part: _from_prepared(paths[0], name, part) for part in FILES}
    else:
        parts = {part: read_part(paths, part) for part in FILES}
        notes = checksum_notes(paths, f"{name}/")
    splits = {part: _grouped(labeled, part, paths[0]) for part, labeled in parts.items()}
    classes, origin = dict.fromkeys(FILES, LABEL_NAMES[name]), PUBLISHED_SPLITS[name]["authors"]
    return from_splits(DatasetInfo(name, LICENSES[name], origin, classes, (28, 28, 1), notes), splits)


def locate_mnist(data_dir: str | os.PathLike[str] | None, *, name: str) -> tuple[Path, ...]:
    """Return the paths of `find_mnist` in `data_dir` or the usual folders. Raises DataError if there are
    none."""
    find = partial(find_mnist, name=name)
    return locate(name, find, data_dir, folders=_FOLDERS[name], expected=EXPECTED_FILES)


def find_mnist(folder: Path, name: str) -> tuple[Path, ...] | None:
    """Return the four idx files in `folder`, images before labels and train before test, or the folder that
    tensorflow-datasets prepared, if any is there.

    Both data sets use the same file names: a folder's own name must not be the other's. Raises DataError if
    some of the four files are there and others are not.
    """
    other = next(known for known in _FOLDERS if known != name)
    if folder.name in {path.split("/")[0] for path in _FOLDERS[other]}:
        return None
    names = [file for files in FILES.values() for file in files]
    paths = [_gzipped_or_not(folder / file) for file in names]
    if lacking := [file for file, path in zip(names, paths) if path is None]:
        if len(lacking) < len(names):
            raise DataError(f"{lacking[0]} is missing", folder, "put it beside the others")
        return find_prepared(folder, (f"jmeta_{name}", name))
    return tuple(path for path in paths if path is not None)


def _gzipped_or_not(gzipped: Path) -> Path | None:
    return next((path for path in (gzipped, gzipped.with_suffix("")) if path.is_file()), None)


def read_part(files: tuple[Path, ...], part: str) -> LabeledImages:
    """Read "train" or "test" from the four files of `find_mnist`.

    Raises DataError if images and labels do not fit each other or do not have MNIST's form.
    """
    start = 2 * list(FILES).index(part)
    images, labels = read_idx(files[start], axes=3), read_idx(files[start + 1], axes=1)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DataError(
            f"images {images.shape} and labels {labels.shape} do not fit; expected [n, 28, 28] and [n]",
            files[start],
            "fetch both files again",
        )
    if labels.size and labels.max() > 9:
        raise DataError(f"a label is {labels.max()}; expected 0 to 9", files[start + 1], "fetch it again")
    return LabeledImages(images[..., None], labels)


def _from_prepared(path: Path, name: str, part: str) -> LabeledImages:
    index = {label: number for number, label in enumerate(LABEL_NAMES[name])}
    files = read_prepared(path, str, splits=(part,))
    decoding = Decoding(None, color=False)
    if unknown := sorted(set(files) - set(index)):
        raise DataError(
            f"it has the label {quote(unknown[0])}, which is none of {name}", path, "prepare it again"
        )
    images = [decode(where, read(), decoding) for members in files.values() for where, read in members]
    labels = [index[label] for label, members in files.items() for _ in members]
    if not images:
        raise DataError(f"no image found in {part}", path, "prepare it again")
    if shapes := sorted({image.shape for image in images} - {(28, 28, 1)}):
        raise DataError(
            f"it has an image of shape {shapes[0]}, expected (28, 28, 1)", path, "prepare it again"
        )
    return LabeledImages(np.stack(images), np.asarray(labels, np.uint8))


def _grouped(labeled: LabeledImages, part: str, where: Path) -> ClassDataset:
    if len(labeled.labels) != _SIZES[part]:
        raise DataError(
            f"{part} has {len(labeled.labels)} images, expected {_SIZES[part]}", where, "fetch it again"
        )
    return from_arrays(labeled.images, labeled.labels, classes=range(10))
