"""Data sets prepared by tensorflow-datasets (array_record files), read without tensorflow."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from jmeta.data.sources.guard import reading
from jmeta.data.sources.images import File


def find_prepared(folder: Path, names: Sequence[str]) -> tuple[Path, ...] | None:
    """Return the newest prepared version of the first of the data sets `names` in `folder`, or None."""
    for name in names:
        base = folder if folder.name == name else folder / name
        versions = [path for path in base.glob("*.*.*") if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
        ready = [path for path in versions if is_prepared(path)]
        if ready:
            return (max(ready, key=lambda path: [int(part) for part in path.name.split(".")]),)
    return None


def is_prepared(path: Path) -> bool:
    """Say whether `path` is a version folder that tensorflow-datasets finished."""
    return (path / "dataset_info.json").exists()


def read_prepared(
    path: Path, class_of_label: Callable[[str], str], splits: Sequence[str] = ("train", "test")
) -> dict[str, list[File]]:
    """Read the encoded images of a prepared data set by class.

    `class_of_label` maps label names to classes. The images of all `splits` are joined, in the order of
    `splits`. Raises DataError if the data cannot be read.
    """
    import tensorflow_datasets as tfds

    files: dict[str, list[File]] = {}
    advice = "prepare it again with file_format='array_record', or give the authors' archives"
    with reading(path, "cannot read what tensorflow-datasets prepared", advice):
        builder = tfds.builder_from_directory(path)
        names = [class_of_label(name) for name in builder.info.features["label"].names]
        for split in splits:
            source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
            for row, example in enumerate(source.__getitems__(range(len(source)))):
                file = f"{path}!{split} record {row}", partial(bytes, example["image"])
                files.setdefault(names[example["label"]], []).append(file)
    return files
