"""The division of classes that the user's files state: a split file, or folders named after splits."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jmeta.data.errors import DataError
from jmeta.data.source import SPLITS
from jmeta.data.sources.guard import LARGEST_JSON, quote, read_file, reading
from jmeta.data.sources.locate import expand
from jmeta.data.splits import FACTS, ClassSplit, canonical_split

_FORM = 'expected {"train": [class, ...], "validation": [...], "test": [...]}'
_ADVICE = "name the folders train, validation and test, with class folders in them, or give split=FILE.json"


def read_split_file(path: str | os.PathLike[str], classes: Iterable[str]) -> ClassSplit:
    """Read a split file, JSON {"train": [class, ...], "validation": [...], "test": [...]}.

    The splits may be spelled as `jmeta.data.splits.canonical_split` understands, and beside them there may be
    the facts of the lists in `jmeta/data/splits/`, such as "dataset". Raises DataError if the file cannot be
    read, lacks a split, has another key, or names a class that is unknown or named before.
    """
    path = expand(path)
    content = read_file(path, LARGEST_JSON)
    with reading(path, "cannot read the split file", "correct the path or the file"):
        pairs = json.loads(content, object_pairs_hook=_Pairs)  # of bytes: a byte-order mark is understood
    if not isinstance(pairs, _Pairs):
        raise DataError("the split file has no splits", path, _FORM)
    grouped: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for key, value in pairs:
        split = canonical_split(key)
        if split is None and key in FACTS:
            continue
        if split is None:
            raise DataError(f"the split file has {quote(key)}, which is no split", path, _FORM)
        if split in grouped:
            what = (
                f"the split file has {quote(spelled[split])} and {quote(key)}, both for the split {split!r}"
            )
            raise DataError(what, path, "join them, or leave one out")
        grouped[split], spelled[split] = _names(value, key, path), key
    if lacking := [split for split in SPLITS if split not in grouped]:
        raise DataError(f"the split file lacks a split, {lacking[0]!r}", path, _FORM)
    known, named = set(classes), [name for names in grouped.values() for name in names]
    if unknown := sorted(set(named) - known):
        what = (
            f"the split file names {len(unknown)} classes that are not there, {quote(unknown[0])} the first"
        )
        raise DataError(what, path, f"correct the names; the first class here is {quote(min(known))}")
    return check_division(grouped, path)


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object, the keys that occur twice among them."""


def _names(value: Any, key: str, path: Path) -> list[str]:
    if not isinstance(value, list) or isinstance(value, _Pairs):
        raise DataError(f"split {quote(key)} of the split file is no list of classes", path, _FORM)
    wrong = [name for name in value if isinstance(name, bool) or not isinstance(name, (str, int))]
    if wrong:
        raise DataError(
            f"split {quote(key)} of the split file has {quote(wrong[0])}, which is no name", path, _FORM
        )
    return [str(name) for name in value]


def classes_left_out(division: ClassSplit, classes: Sequence[str]) -> tuple[str, ...]:
    """Return a note if some of the `classes` are in no split."""
    chosen = {name for names in division.values() for name in names}
    lacking = [name for name in classes if name not in chosen]
    if not lacking:
        return ()
    return (f"classes in no split: {len(lacking)} of {len(classes)}, {quote(lacking[0])} the first",)


def divide_by_folders(classes: Sequence[str], where: Path) -> ClassSplit | None:
    """Divide classes called <split>/<class> by the folders that are named after splits.

    Returns None if no folder is. A folder of images called "train" or a synonym, alone among classes, is a
    class. Raises DataError if only some classes are in folders of splits, if two folders are spellings of one
    split, if a folder of splits lies elsewhere or its name is not understood, and for the reasons of
    `check_division`.
    """
    outer = dict.fromkeys(parts[0] for name in classes if len(parts := PurePosixPath(name).parts) > 1)
    spelled = {top: split for top in outer if (split := canonical_split(top))}
    for name in classes:
        *above, leaf = PurePosixPath(name).parts
        top = above[0] if above else None
        for folder in above[1:] if top in spelled else above:
            if canonical_split(folder) or _resembles_split(folder):
                raise DataError(f"folder {quote(folder)} of {quote(name)} looks like a split", where, _ADVICE)
        if spelled and top not in spelled:
            what = f"class {quote(name)} lies beside the folder {quote(next(iter(spelled)))} of a split"
            raise DataError(what, where, _ADVICE)
        if not spelled and canonical_split(leaf) in ("validation", "test"):
            what = f"folder {quote(name)} is named after a split and has images but no class folders"
            raise DataError(what, where, _ADVICE)
    if not spelled:
        return None
    grouped: dict[str, list[str]] = {}
    for split in SPLITS:
        tops = [top for top, named in spelled.items() if named == split]
        if len(tops) > 1:
            raise DataError(
                f"folders {quote(tops[0])} and {quote(tops[1])} are both {split!r}", where, "join them"
            )
        if not tops:
            what = f"there is a folder {quote(next(iter(spelled)))} and none for the split {split!r}"
            raise DataError(what, where, f"{_ADVICE}; or name the one folder itself with data_dir")
        grouped[split] = [name for name in classes if PurePosixPath(name).parts[0] == tops[0]]
    check_division(
        {split: [name.partition("/")[2] for name in names] for split, names in grouped.items()}, where
    )
    return {split: tuple(names) for split, names in grouped.items()}


def classes_named_after_splits(classes: Sequence[str]) -> tuple[str, ...]:
    """Return a note if a folder of images is named after a split, as a class of trains may be."""
    alike = [name for name in classes if canonical_split(PurePosixPath(name).name)]
    return (f"folder {quote(alike[0])} has images, not class folders: it is a class",) if alike else ()


def _resembles_split(folder: str) -> bool:
    """Say whether a folder's name, such as train2017, has a word for a split in it."""
    words = re.findall("[a-z]+", folder.casefold())
    return not {"train", "trainval", "val", "validation", "test"}.isdisjoint(words)


def check_division(grouped: Mapping[str, Sequence[str]], where: Path) -> ClassSplit:
    """Return the classes of each split. Raises DataError for an empty split, and a class named twice."""
    seen: dict[str, str] = {}
    for split in SPLITS:
        if not grouped[split]:
            raise DataError(f"split {split!r} has no class", where, "three splits are needed")
        for name in grouped[split]:
            if seen.get(name) == split:
                raise DataError(
                    f"class {quote(name)} is named twice in split {split!r}", where, "name it once"
                )
            if name in seen:
                advice = "few-shot learning tests on new classes: give every class to one split"
                raise DataError(f"class {quote(name)} is in more than one split", where, advice)
            seen[name] = split
    return {split: tuple(grouped[split]) for split in SPLITS}
