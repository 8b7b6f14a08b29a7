"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as their authors split them, and the few-shot tasks on CIFAR-100:
CIFAR-FS (Bertinetto et al. 2019) and FC100 (Oreshkin et al. 2018)."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from jmeta.data import splits
from jmeta.data.episodes import from_splits
from jmeta.data.errors import DataError
from jmeta.data.source import Dataset, DatasetInfo
from jmeta.data.sources.authors import LICENSES, PUBLISHED_SPLITS, checksum_notes
from jmeta.data.sources.cache import cached
from jmeta.data.sources.guard import read_file, read_unpacked, reading
from jmeta.data.sources.images import Decoding, File, ImageClasses, check_image_counts, load_images, take
from jmeta.data.sources.locate import Download, locate, locate_or_download
from jmeta.data.sources.prepared import find_prepared, is_prepared, read_prepared
from jmeta.data.sources.store import open_store

_PARTS = ("train", "test")
_IMAGES_PER_CLASS = 600  # of CIFAR-100: 500 in train and 100 in test
_SIZES = {"train": 50_000, "test": 10_000}
_LARGEST = 200 << 20  # bytes of an archive unpacked; those of the authors have 185 million
_WITHOUT_CONTENT = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
                    tarfile.BLKTYPE)  # fmt: skip


class Archive(NamedTuple):
    """The authors' binary archive: `folder` in it, the files of each part (train and test), the file with the
    `names` of the classes, and the number of `labels` bytes before an image, the last of them its class."""

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
        """The accepted forms, for messages."""
        return f"{self.file}, or {self.name}.zip or folders with train/<class>/ and test/<class>/"

    @property
    def folders(self) -> tuple[str, ...]:
        """The usual names of the folder that users keep it in."""
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
    download: Download | None = None,
) -> Dataset:
    """Load CIFAR-10 as splits "train" (50,000 images) and "test" (10,000), with the arguments of
    `cifar_fs`."""
    return _load_by_part(CIFAR10, data_dir, image_size, cache, download)


def cifar100(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    cache: bool | str = True,
    download: Download | None = None,
) -> Dataset:
    """Load CIFAR-100 as splits "train" (50,000 images) and "test" (10,000), with the arguments of
    `cifar_fs`."""
    return _load_by_part(CIFAR100, data_dir, image_size, cache, download)


def cifar_fs(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    cache: bool | str = True,
    download: Download | None = None,
) -> Dataset:
    """Load CIFAR-FS, 64/16/20 classes of CIFAR-100 with all their 600 images [image_size, image_size, 3].

    Args:
      data_dir: the folder (else $JMETA_DATA) with the authors' cifar-100-binary.tar.gz, or a zip or folders
        of images laid out as train/<class>/ and test/<class>/.
      image_size: height and width in pixels.
      cache: see `jmeta.data.sources.cache.cached`.
      download: prepares the authors' archive by tensorflow-datasets if no data are found.

    Raises:
      DataError: if the data are missing, damaged or incomplete.
    """
    return _load_classes("cifar_fs", "bertinetto", data_dir, image_size, cache, download)


def fc100(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    cache: bool | str = True,
    download: Download | None = None,
) -> Dataset:
    """Load FC100, 60/20/20 classes of CIFAR-100 of 12/4/4 superclasses, with the arguments of `cifar_fs`."""
    return _load_classes("fc100", "oreshkin", data_dir, image_size, cache, download)


def _load_classes(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    image_size: int,
    cache: bool | str,
    download: Download | None,
) -> Dataset:
    look = partial(locate_cifar, data_dir, name=name)
    path = locate_or_download(look, f"jmeta_{CIFAR100.name}", download)
    images = _images(CIFAR100, path, _PARTS, image_size, cache)
    check_image_counts(images, class_names(), _IMAGES_PER_CLASS, path)
    classes, origin = splits.published_split(name), PUBLISHED_SPLITS[name][split]
    info = DatasetInfo(name, LICENSES[name], origin, classes, images.examples.shape[1:], images.notes)
    return from_splits(info, {split: take(images, names) for split, names in classes.items()})


def _load_by_part(
    archive: Archive,
    data_dir: str | os.PathLike[str] | None,
    image_size: int,
    cache: bool | str,
    download: Download | None,
) -> Dataset:
    look = partial(locate_cifar, data_dir, name=archive.name)
    path = locate_or_download(look, f"jmeta_{archive.name}", download)
    names, split = class_names(archive), {}
    for part in _PARTS:
        images = _images(archive, path, (part,), image_size, cache)
        check_image_counts(images, names, _SIZES[part] // len(names), path)
        split[part] = take(images, names)
    origin = PUBLISHED_SPLITS[archive.name]["authors"]
    shape, classes = images.examples.shape[1:], dict.fromkeys(_PARTS, names)
    info = DatasetInfo(archive.name, LICENSES[archive.name], origin, classes, shape, images.notes)
    return from_splits(info, split)


def locate_cifar(data_dir: str | os.PathLike[str] | None, *, name: str) -> Path:
    """Return the path of `find_cifar` in `data_dir` or the usual folders, for a data set by its `name`.

    Raises DataError if there is none.
    """
    archive = CIFAR10 if name == CIFAR10.name else CIFAR100
    tasks = () if name == archive.name else ("cifar_fs", "fc100")
    find, folders = partial(find_cifar, archive=archive), (*archive.folders, *tasks)
    return locate(name, find, data_dir, folders=folders, expected=archive.expected)


def _images(
    archive: Archive, path: Path, parts: Sequence[str], image_size: int, cache: bool | str
) -> ImageClasses:
    decoding = Decoding(image_size, color=True)
    settings = {"name": archive.name, **decoding._asdict()}
    if tuple(parts) != _PARTS:
        settings["parts"] = list(parts)
    return cached([path], settings, partial(_decode, archive, path, decoding, parts), cache)


def _decode(archive: Archive, path: Path, decoding: Decoding, parts: Sequence[str]) -> ImageClasses:
    """Decode all classes of some `parts` at the path of `find_cifar`, in the order of the class names."""
    if is_prepared(path):
        files = read_prepared(path, str, splits=parts)
    else:
        by_part = files_by_part(path, archive)
        names = class_names(archive)
        files = {name: [file for part in parts for file in by_part[part].get(name, ())] for name in names}
    files = {name: members for name, members in sorted(files.items()) if members}
    return load_images(files, decoding, path)._replace(notes=checksum_notes([path]))


def find_cifar(folder: Path, archive: Archive = CIFAR100) -> Path | None:
    """Return the archive or folder of CIFAR in `folder`, or `folder`, or the data set prepared there."""
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
    if (folder / archive.parts[0][0]).exists() or all((folder / part / first).is_dir() for part in _PARTS):
        return folder
    there = find_prepared(folder, (f"jmeta_{archive.name}", archive.name))
    return there[0] if there else None


def class_names(archive: Archive = CIFAR100) -> tuple[str, ...]:
    """Return the names of the classes in alphabetical order, that of the labels."""
    if archive is CIFAR10:
        return _CLASSES10
    return tuple(sorted(name for names in splits.published_split("cifar_fs").values() for name in names))


def files_by_part(path: Path, archive: Archive = CIFAR100) -> dict[str, dict[str, Sequence[File]]]:
    """Return the files of each class in the authors' training and test part, {"train": {class: files}, ...}.

    Raises DataError for an archive that is damaged, contains pickles or has another layout.
    """
    if path.name.startswith(archive.folder.replace("binary", "python")):
        raise DataError(
            "it holds pickles, which run code and are never loaded", path, f"expected {archive.expected}"
        )
    packed = path.is_file() and path.suffix.lower() != ".zip"  # a download has a name of its own
    if packed or (path / archive.parts[0][0]).exists():
        return _binary(path, archive)
    return _class_folders(path, archive)


def _class_folders(path: Path, archive: Archive) -> dict[str, dict[str, Sequence[File]]]:
    store, known = open_store(path), set(class_names(archive))
    grouped: dict[str, dict[str, list[File]]] = {part: {} for part in _PARTS}
    for name in store.files:
        # by position, for one of the classes is itself called train
        part, label = ("", "", *PurePosixPath(name).parts)[-3:-1]
        if part not in _PARTS or label not in known:
            layout = f"expected train/<class>/<image> and test/<class>/<image> with {archive.name}'s classes"
            raise DataError(f"not laid out as {archive.name}", store.file(name)[0], layout)
        grouped[part].setdefault(label, []).append(store.file(name))
    return grouped  # type: ignore[return-value]


def _binary(path: Path, archive: Archive) -> dict[str, dict[str, Sequence[File]]]:
    wanted = (*archive.parts[0], *archive.parts[1], archive.names)
    members = _binary_members(path, wanted)
    if lacking := [name for name in wanted if name not in members]:
        raise DataError(f"{lacking[0]} is missing", path, f"fetch the authors' {archive.file} again")
    names = tuple(members[archive.names].decode("utf-8", "replace").split())
    grouped: dict[str, dict[str, list[File]]] = {}
    for part, member_names in zip(_PARTS, archive.parts):
        grouped[part] = {}
        for member in member_names:
            records = _records(members[member], member, path, archive)
            if names != class_names(archive) or records[:, archive.labels - 1].max() >= len(names):
                raise DataError(f"its labels are not those of {archive.name}", path, "fetch it again")
            planes = records[:, archive.labels :].reshape(-1, 3, 32, 32)  # [image, channel, height, width]
            pixels = planes.transpose(0, 2, 3, 1)  # [image, height, width, channel]
            for row, label in enumerate(records[:, archive.labels - 1]):
                file = f"{path}!{member} record {row}", partial(np.ascontiguousarray, pixels[row])
                grouped[part].setdefault(names[label], []).append(file)
    return grouped  # type: ignore[return-value]


def _records(raw: bytes, member: str, path: Path, archive: Archive) -> np.ndarray:
    """Split a file into its records [image, byte]: labels, then the red, green and blue planes."""
    flat, size = np.frombuffer(raw, np.uint8), archive.labels + 3 * 32 * 32
    if flat.size == 0 or flat.size % size:
        raise DataError(f"{member} is truncated ({flat.size} bytes)", path, "fetch it again")
    return flat.reshape(-1, size)


def _binary_members(path: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    if path.is_dir():
        return {name: read_file(path / name, _LARGEST) for name in wanted if (path / name).exists()}
    content = read_unpacked(path, _LARGEST)  # to its checksum, which lies behind the end of the tar
    members: dict[str, bytes] = {}
    with reading(path, "damaged or truncated archive"):
        for name, member in _tar_files(content):
            if name in members:
                raise DataError(f"the archive has {name} more than once", path, "fetch it again")
            if name in wanted:
                members[name] = bytes(member)
    return members


def _tar_files(content: bytes) -> Iterator[tuple[str, memoryview]]:
    """Yield the files of a tar archive, each by the last part of its name.

    Every step goes forward by the size of a member, which `tarfile` does not ensure, and the extended headers
    of pax and GNU are skipped: they serve longer names and larger files than these. Raises ValueError or
    `tarfile.HeaderError` if it is damaged.
    """
    block, offset = tarfile.BLOCKSIZE, 0
    while any(header := content[offset : offset + block]):
        entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        start, size = offset + block, 0 if entry.type in _WITHOUT_CONTENT else entry.size
        if not 0 <= size <= len(content) - start:
            raise ValueError(f"a member of {size} bytes")
        if entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            yield PurePosixPath(entry.name).name, memoryview(content)[start : start + size]
        offset = start + -(-size // block) * block
