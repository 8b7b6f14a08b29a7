"""Download and preparation of Omniglot, CIFAR and the MNIST family by tensorflow-datasets.

Its stock builders cannot prepare without tensorflow. These unpack by themselves and keep the images as their
files. Importing this module registers them as jmeta_omniglot, jmeta_cifar100 and so on. It builds on the
readers of the authors' archives, and none of them imports it.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from jmeta.data.sources.locate import expand, tfds_folder
from jmeta.data.sources.store import open_store
from jmeta.data.splits import published_split

Examples = Iterator[tuple[str, dict[str, Any]]]
_PATIENCE = 10.0  # seconds to wait for the first answer of a server


class JmetaOmniglot(tfds.core.GeneratorBasedBuilder):
    """Omniglot as its authors drew it: "train" is the background set, "test" the evaluation set."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    ARCHIVES = tuple(f"{name}.zip" for name in omniglot.IMAGE_SETS)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put {omniglot.EXPECTED_ARCHIVES} there, or nothing: then they are downloaded."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        lists = published_split("omniglot_lake")
        return _describe(
            self,
            "1623 handwritten characters of 50 alphabets, 20 drawings each, 1-bit images of 105x105 pixels.",
            (105, 105, 1),
            sorted(name for names in lists.values() for name in names),
            "https://github.com/brendenlake/omniglot",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        background, evaluation = _archives(dl_manager, omniglot.find_omniglot, self.ARCHIVES)
        return {"train": self._generate_examples(background), "test": self._generate_examples(evaluation)}

    def _generate_examples(self, path: Path) -> Examples:
        yield from _examples(omniglot.files_by_character(open_store(path)))


class _Cifar(tfds.core.GeneratorBasedBuilder):
    """The common part of CIFAR-10 and CIFAR-100: an archive with two parts."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    SOURCE: cifar.Archive

    def _info(self) -> tfds.core.DatasetInfo:
        names = cifar.class_names(self.SOURCE)
        return _describe(
            self,
            f"60000 color images of 32x32 pixels in {len(names)} classes, 50000 to train and 10000 to test.",
            (32, 32, 3),
            names,
            "https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        (path,) = _archives(dl_manager, self._find, self.ARCHIVES)
        by_part = cifar.files_by_part(path, self.SOURCE)
        return {part: self._generate_examples(files) for part, files in by_part.items()}

    def _find(self, folder: Path) -> tuple[Path, ...] | None:
        path = cifar.find_cifar(folder, self.SOURCE)
        return None if path is None else (path,)

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
    """The common part of MNIST and Fashion-MNIST: four idx files."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {mnist.EXPECTED_FILES} there, or nothing: then they are downloaded."
    SOURCE: str
    HOMEPAGE: str

    def _info(self) -> tfds.core.DatasetInfo:
        return _describe(
            self,
            "70000 gray images of 28x28 pixels in 10 classes, 60000 of them to train and 10000 to test.",
            (28, 28, 1),
            mnist.LABEL_NAMES[self.SOURCE],
            self.HOMEPAGE,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        files = _archives(dl_manager, partial(mnist.find_mnist, name=self.SOURCE), self.ARCHIVES)
        return {part: self._generate_examples(files, part) for part in mnist.FILES}

    def _generate_examples(self, files: tuple[Path, ...], part: str) -> Examples:
        names, labeled = mnist.LABEL_NAMES[self.SOURCE], mnist.read_part(files, part)
        for row, (image, label) in enumerate(zip(labeled.images, labeled.labels)):
            yield f"{row:05d}", {"image": Image.fromarray(image[..., 0]), "label": names[label]}


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


BUILDERS: dict[str, Any] = {
    "jmeta_omniglot": JmetaOmniglot,
    "jmeta_cifar10": JmetaCifar10,
    "jmeta_cifar100": JmetaCifar100,
    "jmeta_mnist": JmetaMnist,
    "jmeta_fashion_mnist": JmetaFashionMnist,
}


def prepare_dataset(
    name: str,
    *,
    archives: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Prepare a data set by tensorflow-datasets and return its folder.

    Args:
      name: that of its builder, a key of `BUILDERS`.
      archives: the folder with the authors' archives; else they are downloaded and their checksums verified.
      data_dir: where tensorflow-datasets keeps the data sets that it prepares, by default its own folder.

    Raises:
      DataError: if that fails, within seconds if there is no network.
    """
    target = expand(data_dir) if data_dir is not None else tfds_folder()
    builder_class = BUILDERS[name]
    if archives is None:
        for file in builder_class.ARCHIVES:
            _check_reachable(URLS[file])
    else:
        archives = expand(archives)
    try:
        builder = builder_class(data_dir=os.fspath(target), file_format="array_record")
        config = tfds.download.DownloadConfig(manual_dir=archives)
        with contextlib.redirect_stdout(sys.stderr):  # where progress belongs
            builder.download_and_prepare(download_config=config)
        return Path(builder.data_dir)
    except DataError:
        raise
    except Exception as error:  # of many kinds: network, checksum, disk
        advice = _advice(" and ".join(builder_class.ARCHIVES), "their")
        raise DataError(f"{name}: cannot be prepared ({error})", target, advice) from error


def _advice(files: str, whose: str) -> str:
    return f"fetch {files} on another machine and name {whose} folder with data_dir"


def _check_reachable(url: str) -> None:
    # tensorflow-datasets would retry silently for minutes
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise DataError(f"the server has it no longer ({error})", url) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        advice = _advice(url.rpartition("/")[2], "its")
        raise DataError(f"cannot be reached ({reason})", url, advice) from error


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


def _archives(
    dl_manager: Any, find: Callable[[Path], tuple[Path, ...] | None], archives: Sequence[str]
) -> tuple[Path, ...]:
    """Return the archives in the manual folder, or download them if there is no manual folder."""
    try:
        manual = Path(dl_manager.manual_dir)
    except AssertionError:  # none, or empty
        downloaded = dl_manager.download({name: URLS[name] for name in archives})
        return tuple(Path(downloaded[name]) for name in archives)
    paths = find(manual)
    if paths is None:
        raise DataError("no archives found", manual, f"expected {' and '.join(archives)}")
    return paths


def _examples(files: Mapping[str, Sequence[File]]) -> Examples:
    for name, members in files.items():
        for label, read in members:
            raw = read()
            # tensorflow-datasets encodes pixels by tensorflow, and a Pillow image without it
            image = Image.fromarray(raw) if isinstance(raw, np.ndarray) else io.BytesIO(raw)
            yield label, {"image": image, "label": name}
