"""Precomputed features: vectors and labels in .npz files."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jmeta.data.class_dataset import ClassDataset, from_arrays
from jmeta.data.episodes import from_splits
from jmeta.data.errors import DataError
from jmeta.data.source import SPLITS, Dataset, DatasetInfo
from jmeta.data.sources.authors import LICENSES
from jmeta.data.sources.folder import SHARES, read_split_file
from jmeta.data.sources.locate import roots
from jmeta.data.splits import split_by_seed

_EXPECTED = "expected one .npz file with x [n, ...] and y [n], or train.npz, validation.npz and test.npz"


def features(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Dataset:
    """Load features `x` [n, ...] (floats, or uint8 images [n, height, width, channel]) and labels `y` [n].

    The classes of a single file are divided by the file `split`; else by an array `split` [n] of "train",
    "validation" and "test" in the data file; else by `seed`, 64/16/20 %.

    Args:
      data_dir: an .npz file, or a folder with one, or with train.npz, validation.npz and test.npz (each with
        labels of its own).
      split: a JSON file as in `jmeta.data.sources.folder.folder`.
      seed: of the division.

    Raises:
      DataError: if a file is missing, is damaged or contains pickled objects, or if its arrays do not fit.
    """
    paths = locate_features(data_dir)
    where = roots(data_dir)[0]
    if len(paths) == len(SPLITS):
        if split is not None:
            raise DataError("a split file beside three data files", where, "leave the split out")
        parts, origin = {name: _read(path) for name, path in zip(SPLITS, paths)}, "the three files"
    else:
        parts, origin = _divide(_read(paths[0]), paths[0], split, seed)
    sets = {name: _grouped(arrays, where) for name, arrays in parts.items()}
    classes = {name: tuple(str(label) for label in np.unique(arrays["y"])) for name, arrays in parts.items()}
    shape = tuple(sets["train"].examples.shape[1:])
    return from_splits(DatasetInfo(where.stem, LICENSES["features"], origin, classes, shape), sets)


def locate_features(data_dir: str | os.PathLike[str] | None) -> tuple[Path, ...]:
    """Return the file of `data_dir`, or its train.npz, validation.npz and test.npz.

    Raises DataError if no folder is named or it has neither.
    """
    if data_dir is None:
        raise DataError("features: no file is named", None, "name the .npz file or its folder with data_dir")
    where = roots(data_dir)[0]
    paths = tuple(where / f"{name}.npz" for name in SPLITS)
    if all(path.exists() for path in paths):
        return paths
    if where.is_file():
        return (where,)
    files = sorted(where.glob("*.npz"))
    if len(files) != 1:
        raise DataError(f"{len(files)} .npz files", where, _EXPECTED)
    return (files[0],)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            names = set(file.files) if isinstance(file, np.lib.npyio.NpzFile) else set()
            arrays: dict[str, np.ndarray] = {name: file[name] for name in {"x", "y", "split"} & names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        pickled = "pickle" in str(error).lower()
        what = "it contains pickled objects, or is not an .npz file" if pickled else f"damaged ({error})"
        advice = "write it with numpy.savez from arrays of numbers and strings"
        raise DataError(what, path, advice) from error
    if not {"x", "y"} <= set(arrays):
        missing = " and ".join(sorted({"x", "y"} - set(arrays)))
        available = ", ".join(sorted(names)) or "no named arrays"
        raise DataError(f"it lacks {missing} and has {available}", path, _EXPECTED)
    lengths = {name: array.shape[:1] for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"x, y and split differ in length ({lengths})", path, _EXPECTED)
    return arrays


def _divide(
    arrays: dict[str, np.ndarray], path: Path, split: str | os.PathLike[str] | None, seed: int
) -> tuple[dict[str, dict[str, np.ndarray]], str]:
    labels = np.array([str(label) for label in arrays["y"]])
    if split is None and "split" in arrays:
        labeled = np.array(["validation" if str(name) == "val" else str(name) for name in arrays["split"]])
        rows, origin = {name: labeled == name for name in SPLITS}, "the array split"
    else:
        if split is not None:
            chosen, origin = read_split_file(Path(split), labels.tolist()), f"the file {Path(split).name}"
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
            raise DataError(f"class {twice[0]!r} is in more than one split", path, advice)
        seen |= members
    return {name: {"x": arrays["x"][mask], "y": arrays["y"][mask]} for name, mask in rows.items()}, origin


def _grouped(arrays: dict[str, np.ndarray], where: Path) -> ClassDataset:
    try:
        return from_arrays(arrays["x"], arrays["y"])
    except ValueError as error:
        raise DataError(str(error), where, _EXPECTED) from error
