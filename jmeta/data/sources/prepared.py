"""Data sets prepared by tensorflow-datasets (array_record files), without tensorflow."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jmeta.data.errors import DataError
from jmeta.data.sources.authors import URLS
from jmeta.data.sources.images import File
from jmeta.data.sources.locate import tfds_folder

Found = TypeVar("Found")
_SPLITS = ("train", "test")
_PATIENCE = 10.0  # seconds to wait for the first answer of a server


def find(folder: Path, names: Sequence[str]) -> tuple[Path, ...] | None:
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


def read(
    path: Path, class_of_label: Callable[[str], str], splits: Sequence[str] = _SPLITS
) -> dict[str, list[File]]:
    """Return the encoded images of a prepared data set by class; `class_of_label` maps its label names.

    Images of all `splits` are put together, in their order.

    Raises DataError where it cannot be read.
    """
    import tensorflow_datasets as tfds

    files: dict[str, list[File]] = {}
    try:
        builder = tfds.builder_from_directory(path)
        names = [class_of_label(name) for name in builder.info.features["label"].names]
        for split in splits:
            source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
            for row, example in enumerate(source.__getitems__(range(len(source)))):
                file = f"{path}!{split} record {row}", partial(bytes, example["image"])
                files.setdefault(names[example["label"]], []).append(file)
    except Exception as error:  # of many kinds: other formats, missing shards, other features
        advice = "prepare it again with file_format='array_record', or give the authors' archives"
        raise DataError(f"cannot read what tensorflow-datasets prepared ({error})", path, advice) from error
    return files


def or_download(
    look: Callable[[], Found], name: str, data_dir: str | os.PathLike[str] | None, download: bool
) -> Found:
    """Return `look()`; where that finds nothing and `download` is set, download and prepare `name` first."""
    try:
        return look()
    except DataError as error:
        if not download:
            raise DataError(f"{error}, or allow the download with download=True") from error
        prepare(name, data_dir=data_dir)
        return look()


def prepare(
    name: str,
    *,
    archives: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Prepare a data set of `tfds_builders.BUILDERS` by tensorflow-datasets; return the folder it is in.

    The authors' archives are read from the folder `archives`, or else downloaded (and their checksums
    verified). `data_dir` is where tensorflow-datasets keeps what it prepares, by default its own folder.
    Raises DataError where that fails, within seconds where there is no network.
    """
    import tensorflow_datasets as tfds

    from jmeta.data.sources import tfds_builders

    target = Path(data_dir).expanduser() if data_dir is not None else tfds_folder()
    builder_class: Any = tfds_builders.BUILDERS[name]
    if archives is None:
        for file in builder_class.ARCHIVES:
            _check_reachable(URLS[file])
    else:
        archives = Path(archives).expanduser()
    try:
        builder = builder_class(data_dir=os.fspath(target), file_format="array_record")
        config = tfds.download.DownloadConfig(manual_dir=archives)
        with contextlib.redirect_stdout(sys.stderr):  # where progress belongs
            builder.download_and_prepare(download_config=config)
        return Path(builder.data_dir)
    except DataError:
        raise
    except Exception as error:  # of many kinds: network, checksum, disk
        raise DataError(f"{name}: cannot be prepared ({error})", target, by_hand(builder_class)) from error


def by_hand(builder_class: Any) -> str:
    """Return the advice to fetch a builder's archives in another way."""
    files = " and ".join(builder_class.ARCHIVES)
    return f"fetch {files} on another machine and name their folder with data_dir"


def _check_reachable(url: str) -> None:
    # tensorflow-datasets would try for minutes without a word
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise DataError(f"the server has it no longer ({error})", url) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        advice = f"fetch {url.rpartition('/')[2]} on another machine and name its folder with data_dir"
        raise DataError(f"cannot be reached ({reason})", url, advice) from error
