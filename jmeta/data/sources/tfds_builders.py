"""Builders for tensorflow-datasets that need no tensorflow: Omniglot, CIFAR and the MNIST family.

The stock builders cannot prepare without tensorflow; these unpack by themselves and keep the images as their
files. Importing this module registers them as jmeta_omniglot, jmeta_cifar100 and so on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jmeta.data.errors import DataError
from jmeta.data.sources import cifar, mnist, omniglot
from jmeta.data.sources.authors import URLS
from jmeta.data.sources.images import File
from jmeta.data.sources.store import open_store
from jmeta.data.splits import published

Examples = Iterator[tuple[str, dict[str, Any]]]


class JmetaOmniglot(tfds.core.GeneratorBasedBuilder):
    """Omniglot as its authors drew it: "train" is the background set, "test" the evaluation set."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    ARCHIVES = ("images_background.zip", "images_evaluation.zip")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {omniglot.EXPECTED} there, or nothing: then they are downloaded."

    def _info(self) -> tfds.core.DatasetInfo:
        lists = published("omniglot_lake")
        return _describe(
            self,
            "1623 handwritten characters of 50 alphabets, 20 drawings each, 1-bit images of 105x105 pixels.",
            (105, 105, 1),
            sorted(name for names in lists.values() for name in names),
            "https://github.com/brendenlake/omniglot",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        background, evaluation = _archives(dl_manager, omniglot.find, self.ARCHIVES)
        return {"train": self._generate_examples(background), "test": self._generate_examples(evaluation)}

    def _generate_examples(self, path: Path) -> Examples:
        yield from _examples(omniglot.by_character(open_store(path)))


class _Cifar(tfds.core.GeneratorBasedBuilder):
    """What CIFAR-10 and CIFAR-100 have in common: an archive with two parts."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    SOURCE: cifar.Archive

    def _info(self) -> tfds.core.DatasetInfo:
        names = cifar.class_names(self.SOURCE)
        return _describe(
            self,
            f"60000 colour images of 32x32 pixels in {len(names)} classes, 50000 to train and 10000 to test.",
            (32, 32, 3),
            names,
            "https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        (found,) = _archives(dl_manager, self._find, self.ARCHIVES)
        grouped = cifar.parts(found, self.SOURCE)
        return {part: self._generate_examples(grouped[part]) for part in cifar.PARTS}

    def _find(self, folder: Path) -> tuple[Path, ...] | None:
        found = cifar.find(folder, self.SOURCE)
        return None if found is None else (found,)

    def _generate_examples(self, files: Mapping[str, Sequence[File]]) -> Examples:
        yield from _examples(files)


class JmetaCifar100(_Cifar):
    """CIFAR-100 with the fine labels."""

    SOURCE = cifar.CIFAR100
    ARCHIVES = (SOURCE.file,)
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {SOURCE.expected} there, or nothing: then the first is downloaded."


class JmetaCifar10(_Cifar):
    """CIFAR-10."""

    SOURCE = cifar.CIFAR10
    ARCHIVES = (SOURCE.file,)
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {SOURCE.expected} there, or nothing: then the first is downloaded."


class _Mnist(tfds.core.GeneratorBasedBuilder):
    """What MNIST and Fashion-MNIST have in common: four idx files."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {mnist.EXPECTED} there, or nothing: then they are downloaded."
    SOURCE: str
    HOMEPAGE: str

    def _info(self) -> tfds.core.DatasetInfo:
        return _describe(
            self,
            "70000 grey images of 28x28 pixels in 10 classes, 60000 of them to train and 10000 to test.",
            (28, 28, 1),
            mnist.CLASSES[self.SOURCE],
            self.HOMEPAGE,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        files = _archives(dl_manager, partial(mnist.find, name=self.SOURCE), self.ARCHIVES)
        return {part: self._generate_examples(files, part) for part in mnist.FILES}

    def _generate_examples(self, files: tuple[Path, ...], part: str) -> Examples:
        yield from mnist.examples(files, part, self.SOURCE)


class JmetaMnist(_Mnist):
    """MNIST, handwritten digits."""

    SOURCE = "mnist"
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
    ARCHIVES = tuple(f"mnist/{name}" for names in mnist.FILES.values() for name in names)


class JmetaFashionMnist(_Mnist):
    """Fashion-MNIST, articles of clothing."""

    SOURCE = "fashion_mnist"
    HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"
    ARCHIVES = tuple(f"fashion_mnist/{name}" for names in mnist.FILES.values() for name in names)


BUILDERS = {
    "jmeta_omniglot": JmetaOmniglot,
    "jmeta_cifar10": JmetaCifar10,
    "jmeta_cifar100": JmetaCifar100,
    "jmeta_mnist": JmetaMnist,
    "jmeta_fashion_mnist": JmetaFashionMnist,
}


def _describe(
    builder: tfds.core.GeneratorBasedBuilder,
    description: str,
    shape: tuple[int, int, int],
    classes: Sequence[str],
    homepage: str,
) -> tfds.core.DatasetInfo:
    features = {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=classes),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("image", "label"),
        homepage=homepage,
    )


def _archives(dl_manager: Any, find: Any, archives: Sequence[str]) -> tuple[Path, ...]:
    """Return the archives in the manual folder, or those downloaded where there is no manual folder."""
    try:
        manual = Path(dl_manager.manual_dir)
    except AssertionError:  # none, or empty
        downloaded = dl_manager.download({name: URLS[name] for name in archives})
        return tuple(Path(downloaded[name]) for name in archives)
    found = find(manual)
    if found is None:
        raise DataError("no archives found", manual, f"expected {' and '.join(archives)}")
    return found


def _examples(files: Mapping[str, Sequence[File]]) -> Examples:
    for name, members in files.items():
        for label, read in members:
            raw = read()
            # of pixels tensorflow-datasets would make a file by tensorflow, of a Pillow image by itself
            image = Image.fromarray(raw) if isinstance(raw, np.ndarray) else io.BytesIO(raw)
            yield label, {"image": image, "label": name}
