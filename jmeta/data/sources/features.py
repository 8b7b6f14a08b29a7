"""Precomputed features: vectors and labels in .npz files."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from jmeta.data.class_dataset import ClassDataset, from_arrays
from jmeta.data.episodes import from_splits
from jmeta.data.errors import DataError
from jmeta.data.source import SPLITS, Dataset, DatasetInfo
from jmeta.data.sources.authors import LICENSES
from jmeta.data.sources.folder import SHARES
from jmeta.data.sources.guard import check_directory, check_plain, quote, reading
from jmeta.data.sources.locate import roots
from jmeta.data.sources.stated import classes_left_out, read_split_file
from jmeta.data.splits import canonical_split, split_by_seed

_EXPECTED = "expected one .npz file with x [n, ...] and y [n], or train.npz, validation.npz and test.npz"
_ADVICE = "write it with numpy.savez from arrays of numbers and strings"
_ARRAYS = ("x", "y", "split")
_KINDS = {"y": ("biuSU", "integers or names"), "split": ("SU", "names")}  # of numpy's types
_MOST_UNPACKED = 256 << 20  # bytes; above, features are refused if they unpack to this many times the file
_MOST_RATIO = 100


def features(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Dataset:
    """Load features `x` [n, ...] (floats, or uint8 images [n, height, width, channel]) and labels `y` [n].

    The classes of a single file are divided by the file `split`; else by an array `split` [n] of "train",
    "validation" and "test" in the data file; else by `seed`, 64/16/20 %. Splits are spelled as
    `jmeta.data.splits.canonical_split` understands them.

    Args:
      data_dir: an .npz file, or a folder with one, or with train.npz, validation.npz and test.npz (each with
        labels of its own).
      split: a JSON file as in `jmeta.data.sources.folder.folder`.
      seed: of the division.

    Raises:
      DataError: if a file is missing, is damaged or contains pickled objects, if its arrays do not fit, or if
        a split is not understood.
    """
    paths, where = locate_features(data_dir), roots(data_dir)[0]
    notes: tuple[str, ...] = ()
    if len(paths) == len(SPLITS):
        if split is not None:
            raise DataError("a split file beside three data files", where, "leave the split out")
        parts, origin = {name: _read_part(path, name) for name, path in zip(SPLITS, paths)}, "the three files"
    else:
        parts, origin, notes = _divide(_read(paths[0]), paths[0], split, seed)
        paths *= len(SPLITS)
    sets = {name: _grouped(parts[name], path) for name, path in zip(SPLITS, paths)}
    shape = tuple(sets["train"].examples.shape[1:])
    for name, path in zip(SPLITS, paths):
        if (other := sets[name].examples).shape[1:] != shape or other.dtype != sets["train"].examples.dtype:
            kinds = f"{other.dtype} {other.shape[1:]} and {sets['train'].examples.dtype} {shape}"
            raise DataError(f"x differs from that of {paths[0].name} ({kinds})", path, _EXPECTED)
    classes = {name: tuple(str(label) for label in np.unique(arrays["y"])) for name, arrays in parts.items()}
    return from_splits(DatasetInfo(where.stem, LICENSES["features"], origin, classes, shape, notes), sets)


def locate_features(data_dir: str | os.PathLike[str] | None) -> tuple[Path, ...]:
    """Return the file of `data_dir`, or its train.npz, validation.npz and test.npz, in any spelling.

    Raises DataError if no folder is named, or if it has neither, files of other names beside these, or two
    for one split.
    """
    if data_dir is None:
        raise DataError("features: no file is named", None, "name the .npz file or its folder with data_dir")
    where = roots(data_dir)[0]
    with reading(where):
        if not where.is_dir():
            return (where,)
        visible = sorted(path for path in where.iterdir() if not path.name.startswith("."))
    files = [path for path in visible if path.suffix.lower() == ".npz"]
    if not files:
        raise DataError("0 .npz files", where, _EXPECTED)
    if len(files) == 1 and canonical_split(files[0].stem) is None:
        return (files[0],)
    by_split: dict[str, Path] = {}
    for path in files:
        name = canonical_split(path.stem)
        if name is None:
            what = f"{len(files)} .npz files, and the name of {path.name} is no split"
            raise DataError(what, where, _EXPECTED)
        if name in by_split:
            what = f"{by_split[name].name} and {path.name} are both the split {name!r}"
            raise DataError(what, where, "keep one of them there")
        by_split[name] = path
    if lacking := [name for name in SPLITS if name not in by_split]:
        raise DataError(f"{files[0].name} is there, but no {lacking[0]}.npz", where, _EXPECTED)
    return tuple(by_split[name] for name in SPLITS)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays x [n, ...] and y [n], and split [n] if the file has it; text is decoded."""
    check_plain(path)
    with reading(path, "damaged .npz file", _ADVICE), path.open("rb") as stream:
        try:
            arrays = _read_arrays(np.load(stream, allow_pickle=False), path)
        except ValueError as error:
            if "pickle" in str(error).lower():
                what = "it contains pickled objects, or is not an .npz file"
                raise DataError(what, path, _ADVICE) from error
            raise
    for name, (kinds, expected) in _KINDS.items():
        if name not in arrays:
            continue
        if arrays[name].dtype.kind not in kinds:
            what = f"{name} is an array of type {quote(str(arrays[name].dtype))}"
            raise DataError(what, path, f"expected {expected}")
        if arrays[name].dtype.kind in "SU":
            with reading(path, f"{name} has names that are no text in UTF-8", _ADVICE):
                arrays[name] = _decoded(arrays[name])
    return arrays


def _read_arrays(file: Any, path: Path) -> dict[str, np.ndarray]:
    names = file.files if isinstance(file, np.lib.npyio.NpzFile) else []
    if not {"x", "y"} <= set(names):
        missing = " and ".join(sorted({"x", "y"} - set(names)))
        available = ", ".join(sorted(names))[:200] or "no named arrays"
        raise DataError(f"it lacks {missing} and has {available}", path, _EXPECTED)
    for name, number in Counter(names).items():
        if number > 1:
            raise DataError(f"it has {quote(name)} more than once", path, _ADVICE)
        if name not in _ARRAYS and name.lower().rstrip("s") == "split":
            raise DataError(f"it has an array {quote(name)}", path, "call it split, or remove it")
    size = sum(member.file_size for member in file.zip.infolist())
    if size > max(_MOST_UNPACKED, _MOST_RATIO * path.stat().st_size):
        raise DataError(f"it unpacks to {size:,} bytes, {_MOST_RATIO} times its size", path, _ADVICE)
    check_directory(file.zip, set(file.zip.namelist()) - {f"{name}.npy" for name in _ARRAYS})
    arrays = {name: _read_array(file.zip, name) for name in _ARRAYS if name in names}
    for name, array in arrays.items():
        if array.ndim < 1 or (name in _KINDS and array.ndim > 1):
            raise DataError(f"{name} has the shape {array.shape}", path, _EXPECTED)
        if len(array) != len(arrays["x"]):
            shapes = {name: array.shape for name, array in arrays.items()}
            raise DataError(f"x, y and split differ in length ({shapes})", path, _EXPECTED)
    return arrays


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Read a member of an .npz file to its end, where its checksum is compared, which `numpy.load` leaves out
    if the header says less than there is."""
    member = f"{name}.npy" if f"{name}.npy" in archive.namelist() else name
    with archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError(f"{name} goes on behind an array of {array.dtype} {array.shape}")
    return array


def _decoded(names: np.ndarray) -> np.ndarray:
    if names.dtype.kind == "S":
        return np.char.decode(names, "utf-8")
    points = np.ascontiguousarray(names.astype(names.dtype.newbyteorder("="))).view(np.uint32)
    if ((points > 0x10FFFF) | (points >> 11 == 0xD800 >> 11)).any():  # beyond Unicode, half a surrogate pair
        raise ValueError("code points that no text has")
    return names


def _read_part(path: Path, split: str) -> dict[str, np.ndarray]:
    """Read the file of one split; an array `split` in it must say the same."""
    arrays = _read(path)
    for name in np.unique(arrays.pop("split", np.array([split]))):
        if canonical_split(str(name)) != split:
            raise DataError(
                f"its array split says {quote(str(name))}", path, f"it is read as the split {split!r}"
            )
    return arrays


def _divide(
    arrays: dict[str, np.ndarray], path: Path, split: str | os.PathLike[str] | None, seed: int
) -> tuple[dict[str, dict[str, np.ndarray]], str, tuple[str, ...]]:
    """Return the arrays of each split, the origin of the division, and notes on it."""
    notes: tuple[str, ...] = ()
    labels = np.array([str(label) for label in arrays["y"]])
    if split is None and "split" in arrays:
        rows, origin = _rows_by_split(arrays["split"], path), "the array split"
    else:
        if split is not None:
            chosen, origin = read_split_file(split, labels.tolist()), f"the file {Path(split).name}"
            notes = classes_left_out(chosen, np.unique(labels).tolist())
        else:
            chosen, origin = split_by_seed(set(labels.tolist()), seed, SHARES), f"by seed {seed}, 64/16/20 %"
        rows = {name: np.isin(labels, members) for name, members in chosen.items()}
    seen: set[str] = set()
    for name, mask in rows.items():
        if not mask.any():
            raise DataError(f"split {name!r} is empty", path, "give every split at least one class")
        members = set(labels[mask].tolist())
        if twice := sorted(seen & members):
            advice = "few-shot learning tests on new classes: give every class to one split"
            raise DataError(f"class {quote(twice[0])} is in more than one split", path, advice)
        seen |= members
    parts = {name: {"x": arrays["x"][mask], "y": arrays["y"][mask]} for name, mask in rows.items()}
    return parts, origin, notes


def _rows_by_split(spelled: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    """Return the mask [n] of the rows of each split, for the array split [n]."""
    words, word = np.unique(spelled, return_inverse=True)
    meant = np.array([canonical_split(str(name)) or "" for name in words])
    if "" in meant:
        unknown = str(words[meant == ""][0])
        raise DataError(f"split {quote(unknown)} is not understood", path, f"expected {', '.join(SPLITS)}")
    return {name: meant[word] == name for name in SPLITS}


def _grouped(arrays: dict[str, np.ndarray], where: Path) -> ClassDataset:
    with reading(where):
        try:
            return from_arrays(arrays["x"], arrays["y"])
        except ValueError as error:
            raise DataError(str(error)[:400], where, _EXPECTED) from error
