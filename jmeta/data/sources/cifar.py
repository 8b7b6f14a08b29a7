"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as their authors split them, and the few-shot tasks on CIFAR-100:
CIFAR-FS (Bertinetto et al. 2019) and FC100 (Oreshkin et al. 2018)."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from jmeta.data import splits
from jmeta.data.errors import DataError
from jmeta.data.source import Dataset, DatasetInfo, from_splits
from jmeta.data.sources import prepared
from jmeta.data.sources.authors import LICENCES, checksum_notes
from jmeta.data.sources.cache import cached
from jmeta.data.sources.images import Decoding, File, ImageClasses, check_complete, load_images, take
from jmeta.data.sources.locate import locate
from jmeta.data.sources.store import open_store

PARTS = ("train", "test")
IMAGES = 600  # of a class of CIFAR-100, 500 in train and 100 in test
SIZES = {"train": 50_000, "test": 10_000}


class Archive(NamedTuple):
    """The authors' binary archive: `folder` in it, the files of each of `PARTS`, the file with the `names`
    of the classes, and how many bytes of `labels` stand before an image, of which the last is the class."""

    name: str
    folder: str
    parts: tuple[tuple[str, ...], tuple[str, ...]]
    names: str
    labels: int

    @property
    def file(self) -> str:
        """Its file name."""
        return f"{self.folder}.tar.gz"

    @property
    def expected(self) -> str:
        """What can be given, for messages."""
        return f"{self.file}, or {self.name}.zip or folders with train/<class>/ and test/<class>/"

    @property
    def folders(self) -> tuple[str, ...]:
        """What users call the folder that they keep it in."""
        return (self.name, self.folder.removesuffix("-binary"), self.folder)


CIFAR100 = Archive("cifar100", "cifar-100-binary", (("train.bin",), ("test.bin",)), "fine_label_names.txt", 2)
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10 = Archive("cifar10", "cifar-10-binary", (_TRAIN, ("test_batch.bin",)), "batches.meta.txt", 1)
_CLASSES10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    cache: bool | str = True,
    download: bool = False,
) -> Dataset:
    """Load CIFAR-10 as splits "train" (50,000 images) and "test" (10,000), with the arguments of
    `cifar_fs`."""
    return _by_part(CIFAR10, data_dir, image_size, cache, download)


def cifar100(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    cache: bool | str = True,
    download: bool = False,
) -> Dataset:
    """Load CIFAR-100 as splits "train" (50,000 images) and "test" (10,000), with the arguments of
    `cifar_fs`."""
    return _by_part(CIFAR100, data_dir, image_size, cache, download)


def cifar_fs(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    cache: bool | str = True,
    download: bool = False,
) -> Dataset:
    """Load CIFAR-FS, 64/16/20 classes of CIFAR-100 with all their 600 images [image_size, image_size, 3].

    `data_dir` (or $JMETA_DATA) holds the authors' cifar-100-binary.tar.gz, or a zip or folders of images laid
    out as train/<class>/ and test/<class>/; `download` fetches the former by tensorflow-datasets. Raises
    DataError for data that are missing, damaged or incomplete.
    """
    origin = "Bertinetto et al. 2019, 64/16/20 classes"
    return _cifar("cifar_fs", origin, data_dir, image_size, cache, download)


def fc100(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    cache: bool | str = True,
    download: bool = False,
) -> Dataset:
    """Load FC100, 60/20/20 classes of CIFAR-100 of 12/4/4 superclasses, with the arguments of `cifar_fs`."""
    origin = "Oreshkin et al. 2018, 60/20/20 classes"
    return _cifar("fc100", origin, data_dir, image_size, cache, download)


def _cifar(
    name: str,
    origin: str,
    data_dir: str | os.PathLike[str] | None,
    image_size: int,
    cache: bool | str,
    download: bool,
) -> Dataset:
    found = _found(CIFAR100, name, ("cifar_fs", "fc100"), data_dir, download)
    images = _images(CIFAR100, found, PARTS, image_size, cache)
    check_complete(images, class_names(), IMAGES, found)
    chosen = splits.published(name)
    info = DatasetInfo(name, LICENCES[name], origin, chosen, images.examples.shape[1:], images.notes)
    return from_splits(info, {split: take(images, classes) for split, classes in chosen.items()})


def _by_part(
    archive: Archive,
    data_dir: str | os.PathLike[str] | None,
    image_size: int,
    cache: bool | str,
    download: bool,
) -> Dataset:
    found = _found(archive, archive.name, (), data_dir, download)
    names, split = class_names(archive), {}
    for part in PARTS:
        images = _images(archive, found, (part,), image_size, cache)
        check_complete(images, names, SIZES[part] // len(names), found)
        split[part] = take(images, names)
    origin = "Krizhevsky 2009, 50,000 to train, 10,000 to test"
    shape, classes = images.examples.shape[1:], dict.fromkeys(PARTS, names)
    info = DatasetInfo(archive.name, LICENCES[archive.name], origin, classes, shape, images.notes)
    return from_splits(info, split)


def _found(
    archive: Archive,
    name: str,
    folders: Sequence[str],
    data_dir: str | os.PathLike[str] | None,
    download: bool,
) -> Path:
    look = partial(
        locate,
        name,
        partial(find, archive=archive),
        data_dir,
        folders=(*archive.folders, *folders),
        expected=archive.expected,
    )
    return prepared.or_download(look, f"jmeta_{archive.name}", data_dir, download)


def _images(
    archive: Archive, found: Path, wanted: Sequence[str], image_size: int, cache: bool | str
) -> ImageClasses:
    decoding = Decoding(image_size, colour=True)
    settings = {"name": archive.name, **decoding._asdict()}
    if tuple(wanted) != PARTS:
        settings["parts"] = list(wanted)
    return cached([found], settings, partial(load, archive, found, decoding, wanted), cache)


def find(folder: Path, archive: Archive = CIFAR100) -> Path | None:
    """Return the archive or folder of CIFAR in `folder`, or `folder`, or what was prepared there."""
    if folder.is_file():
        return folder
    digits = archive.name.removeprefix("cifar")
    archives = [folder / archive.file, folder / archive.folder]
    archives += sorted(
        path
        for path in folder.glob("*.zip")
        if re.fullmatch(rf"cifar.?{digits}(?!\d).*", path.stem, re.IGNORECASE)
    )
    for path in archives:
        if path.exists():
            return path
    first = class_names(archive)[0]
    if (folder / archive.parts[0][0]).exists() or all((folder / part / first).is_dir() for part in PARTS):
        return folder
    there = prepared.find(folder, (f"jmeta_{archive.name}", archive.name))
    return there[0] if there else None


def load(archive: Archive, found: Path, decoding: Decoding, wanted: Sequence[str] = PARTS) -> ImageClasses:
    """Decode all classes of what `find` found, in the order of their names, of the `wanted` parts."""
    if prepared.is_prepared(found):
        files = prepared.read(found, str, splits=wanted)
    else:
        both = parts(found, archive)
        names = class_names(archive)
        files = {name: [file for part in wanted for file in both[part].get(name, ())] for name in names}
    files = {name: members for name, members in sorted(files.items()) if members}
    return load_images(files, decoding)._replace(notes=checksum_notes([found]))


def class_names(archive: Archive = CIFAR100) -> tuple[str, ...]:
    """Return the names of the classes in alphabetical order, that of the labels."""
    if archive is CIFAR10:
        return _CLASSES10
    return tuple(sorted(name for names in splits.published("cifar_fs").values() for name in names))


def parts(found: Path, archive: Archive = CIFAR100) -> dict[str, dict[str, Sequence[File]]]:
    """Return the files of each class in the authors' training and test part, {"train": {class: files}, ...}.

    Raises DataError for an archive that is damaged, holds pickles or is laid out otherwise.
    """
    if found.name.startswith(archive.folder.replace("binary", "python")):
        raise DataError(
            "it holds pickles, which run code and are never loaded", found, f"expected {archive.expected}"
        )
    packed = found.is_file() and found.suffix.lower() != ".zip"  # a download has a name of its own
    if packed or (found / archive.parts[0][0]).exists():
        return _binary(found, archive)
    return _class_folders(found, archive)


def _class_folders(found: Path, archive: Archive) -> dict[str, dict[str, Sequence[File]]]:
    store, known = open_store(found), set(class_names(archive))
    grouped: dict[str, dict[str, list[File]]] = {part: {} for part in PARTS}
    for name in store.files:
        # by position, for one of the classes is itself called train
        part, label = ("", "", *PurePosixPath(name).parts)[-3:-1]
        if part not in PARTS or label not in known:
            layout = f"expected train/<class>/<image> and test/<class>/<image> with {archive.name}'s classes"
            raise DataError(f"not laid out as {archive.name}", store.file(name)[0], layout)
        grouped[part].setdefault(label, []).append(store.file(name))
    return grouped  # type: ignore[return-value]


def _binary(found: Path, archive: Archive) -> dict[str, dict[str, Sequence[File]]]:
    wanted = (*archive.parts[0], *archive.parts[1], archive.names)
    members = _binary_members(found, wanted)
    if lacking := [name for name in wanted if name not in members]:
        raise DataError(f"{lacking[0]} is missing", found, f"fetch the authors' {archive.file} again")
    names = tuple(members[archive.names].decode("utf-8", "replace").split())
    grouped: dict[str, dict[str, list[File]]] = {}
    for part, member_names in zip(PARTS, archive.parts):
        grouped[part] = {}
        for member in member_names:
            records = _records(members[member], member, found, archive)
            if names != class_names(archive) or records[:, archive.labels - 1].max() >= len(names):
                raise DataError(f"its labels are not those of {archive.name}", found, "fetch it again")
            pixels = records[:, archive.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for row, label in enumerate(records[:, archive.labels - 1]):
                file = f"{found}!{member} record {row}", partial(np.ascontiguousarray, pixels[row])
                grouped[part].setdefault(names[label], []).append(file)
    return grouped  # type: ignore[return-value]


def _records(raw: bytes, member: str, found: Path, archive: Archive) -> np.ndarray:
    """The labels and the red, green and blue planes of every image of a file, [image, byte]."""
    flat, size = np.frombuffer(raw, np.uint8), archive.labels + 3 * 32 * 32
    if flat.size == 0 or flat.size % size:
        raise DataError(f"{member} is truncated ({flat.size} bytes)", found, "fetch it again")
    return flat.reshape(-1, size)


def _binary_members(found: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    try:
        if found.is_dir():
            return {name: (found / name).read_bytes() for name in wanted if (found / name).exists()}
        members = {}
        with tarfile.open(found) as archive:
            for entry in archive:
                if entry.isfile() and (file := archive.extractfile(entry)) is not None:
                    members[PurePosixPath(entry.name).name] = file.read()
        return members
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"damaged or truncated archive ({error})", found, "fetch it again") from error
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror or error})", found) from error
