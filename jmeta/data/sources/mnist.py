"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): 60,000 images to train, 10,000 to test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jmeta.data.class_dataset import ClassDataset, from_arrays
from jmeta.data.errors import DataError
from jmeta.data.source import Dataset, DatasetInfo, from_splits
from jmeta.data.sources import prepared
from jmeta.data.sources.authors import LICENCES, checksum_notes
from jmeta.data.sources.idx import read_idx
from jmeta.data.sources.images import Decoding, decode
from jmeta.data.sources.locate import locate

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
CLASSES = {
    "mnist": tuple(str(digit) for digit in range(10)),
    "fashion_mnist": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
                      "Bag", "Ankle boot"),
}  # fmt: skip
FOLDERS = {
    "mnist": ("mnist", "MNIST/raw"),
    "fashion_mnist": ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
}
SIZES = {"train": 60_000, "test": 10_000}
EXPECTED = ", ".join(name for names in FILES.values() for name in names) + " (gzipped or not)"


class Labelled(NamedTuple):
    """Images [example, height, width, 1] uint8 and their labels [example] uint8, in the authors' order."""

    images: np.ndarray
    labels: np.ndarray


def mnist(*, data_dir: str | os.PathLike[str] | None = None, download: bool = False) -> Dataset:
    """Load MNIST, images [28, 28, 1], ink 255 on 0, as splits "train" and "test" grouped by digit.

    `data_dir` (or $JMETA_DATA) holds the authors' four idx files, gzipped or not, or what
    tensorflow-datasets prepared; `download` fetches what is missing by tensorflow-datasets. Raises DataError
    for data that are missing, damaged or incomplete.
    """
    return _dataset("mnist", "LeCun et al. 1998, 60,000 to train, 10,000 to test", data_dir, download)


def fashion_mnist(*, data_dir: str | os.PathLike[str] | None = None, download: bool = False) -> Dataset:
    """Load Fashion-MNIST, articles of clothing in MNIST's form, with the arguments of `mnist`."""
    return _dataset("fashion_mnist", "Xiao et al. 2017, 60,000 to train, 10,000 to test", data_dir, download)


def _dataset(name: str, origin: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Dataset:
    found = prepared.or_download(
        partial(locate, name, partial(find, name=name), data_dir, folders=FOLDERS[name], expected=EXPECTED),
        f"jmeta_{name}",
        data_dir,
        download,
    )
    notes: tuple[str, ...] = ()
    if prepared.is_prepared(found[0]):
        parts = {part: _prepared(found[0], name, part) for part in FILES}
    else:
        parts = {part: read_part(found, part) for part in FILES}
        notes = checksum_notes(found, f"{name}/")
    splits = {part: _grouped(labelled, part, found[0]) for part, labelled in parts.items()}
    classes = dict.fromkeys(FILES, CLASSES[name])
    return from_splits(DatasetInfo(name, LICENCES[name], origin, classes, (28, 28, 1), notes), splits)


def find(folder: Path, name: str) -> tuple[Path, ...] | None:
    """Return the four idx files in `folder`, images before labels and train before test, or the folder that
    tensorflow-datasets prepared, if any is there.

    Both data sets use the same file names: a folder's own name must not be the other's. Raises DataError
    where some of the four files are there and others are not.
    """
    other = next(known for known in FOLDERS if known != name)
    if folder.name in {path.split("/")[0] for path in FOLDERS[other]}:
        return None
    names = [file for files in FILES.values() for file in files]
    paths = [_either(folder / file) for file in names]
    if lacking := [file for file, path in zip(names, paths) if path is None]:
        if len(lacking) < len(names):
            raise DataError(f"{lacking[0]} is missing", folder, "put it beside the others")
        return prepared.find(folder, (f"jmeta_{name}", name))
    return tuple(path for path in paths if path is not None)


def _either(gzipped: Path) -> Path | None:
    return next((path for path in (gzipped, gzipped.with_suffix("")) if path.is_file()), None)


def read_part(files: tuple[Path, ...], part: str) -> Labelled:
    """Read "train" or "test" from the four files that `find` found.

    Raises DataError where images and labels do not fit each other or are not those of MNIST's form.
    """
    start = 2 * list(FILES).index(part)
    images, labels = map(read_idx, files[start : start + 2])
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DataError(
            f"images {images.shape} and labels {labels.shape} do not fit; expected [n, 28, 28] and [n]",
            files[start],
            "fetch both files again",
        )
    if labels.size and labels.max() > 9:
        raise DataError(f"a label is {labels.max()}; expected 0 to 9", files[start + 1], "fetch it again")
    return Labelled(images[..., None], labels)


def examples(files: tuple[Path, ...], part: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The images of a part as tensorflow-datasets takes them, ("row", {"image", "label"})."""
    from PIL import Image

    labelled = read_part(files, part)
    for row, (image, label) in enumerate(zip(labelled.images, labelled.labels)):
        yield f"{row:05d}", {"image": Image.fromarray(image[..., 0]), "label": CLASSES[name][label]}


def _prepared(found: Path, name: str, part: str) -> Labelled:
    index = {label: number for number, label in enumerate(CLASSES[name])}
    files = prepared.read(found, str, splits=(part,))
    decoding = Decoding(None, colour=False)
    images = [decode(where, read(), decoding) for members in files.values() for where, read in members]
    labels = [index[label] for label, members in files.items() for _ in members]
    return Labelled(np.stack(images), np.asarray(labels, np.uint8))


def _grouped(labelled: Labelled, part: str, where: Path) -> ClassDataset:
    if len(labelled.labels) != SIZES[part]:
        raise DataError(
            f"{part} holds {len(labelled.labels)} images, expected {SIZES[part]}", where, "fetch it again"
        )
    return from_arrays(labelled.images, labelled.labels)
