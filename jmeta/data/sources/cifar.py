"""The few-shot tasks on CIFAR-100: CIFAR-FS (Bertinetto et al. 2019) and FC100 (Oreshkin et al. 2018)."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

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

EXPECTED = "cifar-100-binary.tar.gz, or cifar100.zip or folders with train/<class>/ and test/<class>/"
PARTS = ("train", "test")
IMAGES = 600  # of a class, 500 in train and 100 in test
_FOLDERS = ("cifar100", "cifar-100", "cifar-100-binary", "cifar_fs", "fc100")
_BINARY = ("train.bin", "test.bin", "fine_label_names.txt")
_RECORD = 2 + 3 * 32 * 32  # coarse label, fine label, red, green and blue planes


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
    found = prepared.or_download(
        partial(locate, name, find, data_dir, folders=_FOLDERS, expected=EXPECTED),
        "jmeta_cifar100",
        data_dir,
        download,
    )
    decoding = Decoding(image_size, colour=True)
    settings = {"name": "cifar100", **decoding._asdict()}
    images = cached([found], settings, partial(load, found, decoding), cache)
    check_complete(images, class_names(), IMAGES, found)
    chosen = splits.published(name)
    info = DatasetInfo(name, LICENCES[name], origin, chosen, images.examples.shape[1:], images.notes)
    return from_splits(info, {split: take(images, classes) for split, classes in chosen.items()})


def find(folder: Path) -> Path | None:
    """Return the archive or folder of CIFAR-100 in `folder`, or `folder`, or what was prepared there."""
    if folder.is_file():
        return folder
    archives = [folder / "cifar-100-binary.tar.gz", folder / "cifar-100-binary"]
    archives += sorted(
        path for path in folder.glob("*.zip") if re.fullmatch(r"cifar.?100.*", path.stem, re.IGNORECASE)
    )
    for path in archives:
        if path.exists():
            return path
    if (folder / _BINARY[0]).exists() or all((folder / part / "apple").is_dir() for part in PARTS):
        return folder
    there = prepared.find(folder, ("jmeta_cifar100", "cifar100"))
    return there[0] if there else None


def load(found: Path, decoding: Decoding) -> ImageClasses:
    """Decode all classes of what `find` found, in the order of their names."""
    if prepared.is_prepared(found):
        files = prepared.read(found, str)
    else:
        both = parts(found)
        files = {name: [*both["train"].get(name, ()), *both["test"].get(name, ())] for name in class_names()}
    files = {name: members for name, members in sorted(files.items()) if members}
    return load_images(files, decoding)._replace(notes=checksum_notes([found]))


def class_names() -> tuple[str, ...]:
    """Return the 100 class names in alphabetical order, that of the labels."""
    return tuple(sorted(name for names in splits.published("cifar_fs").values() for name in names))


def parts(found: Path) -> dict[str, dict[str, Sequence[File]]]:
    """Return the files of each class in the authors' training and test part, {"train": {class: files}, ...}.

    Raises DataError for an archive that is damaged, holds pickles or is laid out otherwise.
    """
    if found.name.startswith("cifar-100-python"):
        raise DataError(
            "it holds pickles, which run code and are never loaded", found, f"expected {EXPECTED}"
        )
    archive = found.is_file() and found.suffix.lower() != ".zip"  # a download has a name of its own
    if archive or (found / _BINARY[0]).exists():
        return _binary(found)
    return _class_folders(found)


def _class_folders(found: Path) -> dict[str, dict[str, Sequence[File]]]:
    store, known = open_store(found), set(class_names())
    grouped: dict[str, dict[str, list[File]]] = {part: {} for part in PARTS}
    for name in store.files:
        # by position, for one of the classes is itself called train
        part, label = ("", "", *PurePosixPath(name).parts)[-3:-1]
        if part not in PARTS or label not in known:
            layout = "expected train/<class>/<image> and test/<class>/<image> with the classes of CIFAR-100"
            raise DataError("not laid out as CIFAR-100", store.file(name)[0], layout)
        grouped[part].setdefault(label, []).append(store.file(name))
    return grouped  # type: ignore[return-value]


def _binary(found: Path) -> dict[str, dict[str, Sequence[File]]]:
    members = _binary_members(found)
    if lacking := [name for name in _BINARY if name not in members]:
        raise DataError(f"{lacking[0]} is missing", found, "fetch the authors' cifar-100-binary.tar.gz again")
    names = members["fine_label_names.txt"].decode("utf-8", "replace").split()
    grouped: dict[str, dict[str, list[File]]] = {}
    for part in PARTS:
        raw = np.frombuffer(members[f"{part}.bin"], np.uint8)
        if raw.size == 0 or raw.size % _RECORD:
            raise DataError(f"{part}.bin is truncated ({raw.size} bytes)", found, "fetch it again")
        records = raw.reshape(-1, _RECORD)
        if tuple(names) != class_names() or records[:, 1].max() >= len(names):
            raise DataError("its labels are not those of CIFAR-100", found, "fetch it again")
        pixels = records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        grouped[part] = {}
        for row, label in enumerate(records[:, 1]):
            file = f"{found}!{part}.bin record {row}", partial(np.ascontiguousarray, pixels[row])
            grouped[part].setdefault(names[label], []).append(file)
    return grouped  # type: ignore[return-value]


def _binary_members(found: Path) -> dict[str, bytes]:
    try:
        if found.is_dir():
            return {name: (found / name).read_bytes() for name in _BINARY if (found / name).exists()}
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
