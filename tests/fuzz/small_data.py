"""Small data sets in every form that is read, and the digest of what a loader makes of them."""

import gzip
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jmeta.data.datasets import dataset
from jmeta.data.sources import cifar, class_folders, features, folder, mnist, omniglot
from tests.data.source_helpers import encode, noise
from tests.fuzz.damage import Files, tar_gz_bytes, zip_bytes

CHARACTERS = {
    "train": ("Greek/character01", "Greek/character02", "Greek/character03"),
    "validation": ("Latin/character01",),
    "test": ("Tifinagh/character01", "Tifinagh/character02"),
}
WNIDS = {"train": ("n01532829", "n01558993"), "validation": ("n01855672",), "test": ("n01930112",)}
BIRDS = {"train": ("001.Albatross", "002.Auklet"), "validation": ("003.Cardinal",), "test": ("004.Crow",)}
DIGITS = {"train": 24, "test": 12}
LOADERS = (
    cifar,
    class_folders,
    features,
    folder,
    mnist,
    omniglot,
)  # imported before the first process is forked


class Form(NamedTuple):
    """A data set in one form: its `files`, and the arguments of `jmeta.dataset`, of which "split" and
    "data_dir" lie in the folder of the files."""

    files: Callable[[], Files]
    name: str
    options: Mapping[str, str] = MappingProxyType({})

    def load(self, folder: Path, cache: bool | str = False) -> tuple[str, list[str]]:
        """Load the data in a folder; return the digest of what a run sees of them, and their notes."""
        options = {"data_dir": folder} | {name: folder / value for name, value in self.options.items()}
        options |= {} if self.name in ("features", "mnist") else {"cache": cache}
        return digest(dataset(self.name, **options))


def digest(data: Any) -> tuple[str, list[str]]:
    """Hash the examples, the classes and the division of a data set; also return its notes."""
    hashed = hashlib.sha256()
    for name in sorted(data.splits):
        split = data.splits[name]
        hashed.update(
            f"{name} {tuple(data.info.classes[name])} {data.info.shape} {split.examples.dtype}".encode()
        )
        for array in split:
            hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest(), list(data.info.notes)


def shrink() -> None:
    """Let the published data sets be as small as those here. For a process of its own, as it is for good."""
    omniglot._SPLITS["vinyals"] = lambda: CHARACTERS
    omniglot._DRAWERS = 2
    cifar._IMAGES_PER_CLASS = 3
    cifar._SIZES = {"train": 20, "test": 10}
    mnist._SIZES = DIGITS
    published = {
        "mini_imagenet": class_folders._Published("mini_imagenet", "ravi", WNIDS, ("mini_imagenet",), 12),
        "cub": class_folders._Published("cub", "chen", BIRDS, ("cub", "CUB_200_2011"), 12),
    }
    class_folders._published = published.__getitem__
    class_folders._IMAGES_PER_CLASS = 3
    class_folders.image_numbers = lambda: {name: [1, 2, 3] for names in WNIDS.values() for name in names}


def flat(seed: Any, *shape: int) -> np.ndarray:
    """Pixels of few values, which compress by their frequencies."""
    return noise(seed, *shape) // 64 * 60


def _omniglot() -> dict[str, Files]:
    parts: dict[str, Files] = {part: {} for part in omniglot.IMAGE_SETS}
    for index, name in enumerate(name for names in CHARACTERS.values() for name in names):
        part = omniglot.IMAGE_SETS[name.startswith("Tifinagh")]
        for drawer in range(2):
            parts[part][f"{part}/{name}/{drawer}.png"] = encode(noise([index, drawer], 35, 35), mode="1")
    return parts


def omniglot_zips() -> Files:
    return {f"{part}.zip": zip_bytes(files) for part, files in _omniglot().items()}


def omniglot_folders() -> Files:
    return {name: raw for files in _omniglot().values() for name, raw in files.items()}


def _cifar10() -> Files:
    files = {"batches.meta.txt": ("\n".join(cifar.class_names(cifar.CIFAR10)) + "\n").encode()}
    names = [*cifar.CIFAR10.parts[0], *cifar.CIFAR10.parts[1]]
    for index, name in enumerate(names):
        labels = range(10) if name.startswith("test") else [(4 * index + row) % 10 for row in range(4)]
        files[name] = b"".join(bytes([label]) + flat([index, label], 3, 32, 32).tobytes() for label in labels)
    return files


def cifar_tar() -> Files:
    return {
        "cifar-10-binary.tar.gz": tar_gz_bytes(
            {f"cifar-10-batches-bin/{k}": v for k, v in _cifar10().items()}
        )
    }


def cifar_folder() -> Files:
    return {f"cifar-10-binary/{name}": raw for name, raw in _cifar10().items()}


def cifar_zip() -> Files:
    files = {
        f"cifar100/{part}/{name}/{row}.png": encode(flat([index, row], 8, 8, 3))
        for index, name in enumerate(cifar.class_names())
        for row, part in enumerate(("train", "train", "test"))
    }
    return {"cifar100.zip": zip_bytes(files)}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_plain() -> Files:
    files = {}
    for seed, (part, number) in enumerate(DIGITS.items()):
        images, labels = flat([1, seed], number, 28, 28), (np.arange(number) * 7 % 10).astype(np.uint8)
        for name, array in zip(mnist.FILES[part], (images, labels)):
            files[name.removesuffix(".gz")] = idx(array)
    return files


def idx_gz() -> Files:
    return {f"{name}.gz": gzip.compress(raw, mtime=0) for name, raw in idx_plain().items()}


def _npz(arrays: dict[str, np.ndarray], compressed: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def _vectors(seed: int, labels: Any) -> dict[str, np.ndarray]:
    x = np.round(np.random.default_rng(seed).normal(size=(len(labels), 6)), 1)
    return {"x": x.astype(np.float32), "y": np.asarray(labels)}


def features_of_numbers() -> Files:
    split = np.repeat(["train", "validation", "test"], [24, 12, 12])
    return {"vectors.npz": _npz({**_vectors(0, np.repeat(np.arange(8), 6)), "split": split}, True)}


def features_of_names() -> Files:
    labels = np.repeat([f"class{index}" for index in range(8)], 6)
    return {"vectors.npz": _npz(_vectors(0, labels), False)}


def features_in_three() -> Files:
    return {
        f"{name}.npz": _npz(_vectors(seed, np.repeat(np.arange(3), 4)), seed == 1)
        for seed, name in enumerate(("train", "validation", "test"))
    }


_FORMATS = [(name.lower()[:4].replace("jpeg", "jpg").replace("tiff", "tif"), name)
            for name in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP")]  # fmt: skip


def _photographs(root: str, classes: Any, each: int = 3) -> Files:
    return {
        f"{root}{name}/{name}_{row + 1}.{_FORMATS[(index + row) % 7][0]}": encode(
            flat([index, row], 12, 12, 3), _FORMATS[(index + row) % 7][1]
        )
        for index, name in enumerate(classes)
        for row in range(each)
    }


_CLASSES = [f"class{index}" for index in range(7)]


def folder_of_images() -> Files:
    return _photographs("pictures/", _CLASSES)


def folder_with_splits() -> Files:
    parts = {"train": _CLASSES[:3], "val": _CLASSES[3:5], "test": _CLASSES[5:]}
    return {
        name: raw
        for part, members in parts.items()
        for name, raw in _photographs(f"{part}/", members).items()
    }


def zip_of_images() -> Files:
    return {"pictures.zip": zip_bytes(_photographs("pictures/", _CLASSES), zipfile.ZIP_STORED)}


def folder_with_list() -> Files:
    lists = {"train": _CLASSES[:3], "validation": _CLASSES[3:5], "test": _CLASSES[5:]}
    return {"split.json": json.dumps(lists).encode(), **_photographs("pictures/", _CLASSES)}


def features_with_list() -> Files:
    lists = {"train": _CLASSES[:3], "validation": _CLASSES[3:5], "test": _CLASSES[5:]}
    labels = np.repeat(_CLASSES, 4)
    return {"split.json": json.dumps(lists).encode(), "vectors.npz": _npz(_vectors(0, labels), True)}


def own_data(classes: int, each: int) -> dict[str, Files]:
    """A user's folder of images, and features, with split files, by the name of the data set."""
    names = [f"class{index:02d}" for index in range(classes)]
    start, stop = round(0.6 * classes), round(0.8 * classes)
    lists = {"train": names[:start], "validation": names[start:stop], "test": names[stop:]}
    split = {"split.json": json.dumps(lists).encode()}
    pictures = {
        f"pictures/{name}/{row}.bmp": encode(noise([index, row], 16, 16), "BMP")
        for index, name in enumerate(names)
        for row in range(each)
    }
    return {
        "folder": split | pictures,
        "features": {**split, "x.npz": _npz(_vectors(0, np.repeat(names, each)), False)},
    }


def mini_imagenet_folders() -> Files:
    files = {}
    for part, names in zip(("train", "val", "test"), WNIDS.values()):
        for index, name in enumerate(names):
            for row in range(3):
                raw = encode(flat([index, row], 10, 12, 3), "JPEG")
                files[f"mini_imagenet/{part}/{name}/{name}_{row + 1}.JPEG"] = raw
    return files


def cub_zip() -> Files:
    return {
        "cub.zip": zip_bytes(_photographs("CUB_200_2011/images/", [n for v in BIRDS.values() for n in v]))
    }


def prepare(folder: Path) -> None:
    """Let tensorflow-datasets prepare Omniglot in a folder. For a process of its own: it starts threads."""
    from jmeta.data.sources.download import prepare_dataset

    shrink()
    (folder / "archives").mkdir()
    for name, raw in omniglot_zips().items():
        (folder / "archives" / name).write_bytes(raw)
    prepare_dataset("jmeta_omniglot", archives=folder / "archives", data_dir=folder / "tfds")


FORMS = {
    "omniglot zips": Form(omniglot_zips, "omniglot"),
    "omniglot folders": Form(omniglot_folders, "omniglot"),
    "cifar tar.gz": Form(cifar_tar, "cifar10"),
    "cifar binary folder": Form(cifar_folder, "cifar10"),
    "cifar zip": Form(cifar_zip, "cifar_fs"),
    "idx.gz": Form(idx_gz, "mnist"),
    "idx": Form(idx_plain, "mnist"),
    "features": Form(features_of_numbers, "features"),
    "features of names": Form(features_of_names, "features"),
    "features in three files": Form(features_in_three, "features"),
    "features with a split file": Form(features_with_list, "features", {"split": "split.json"}),
    "folder": Form(folder_of_images, "folder"),
    "folder with splits": Form(folder_with_splits, "folder"),
    "zip of images": Form(zip_of_images, "folder", {"data_dir": "pictures.zip"}),
    "folder with a split file": Form(folder_with_list, "folder", {"split": "split.json"}),
    "mini_imagenet folders": Form(mini_imagenet_folders, "mini_imagenet"),
    "cub zip": Form(cub_zip, "cub"),
}


def first_picture() -> bytes:
    """A small image that the data sets here do not have."""
    buffer = io.BytesIO()
    Image.fromarray(noise(99, 12, 12, 3)).save(buffer, "PNG")
    return buffer.getvalue()
