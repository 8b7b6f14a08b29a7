"""The data sets by name: what loads them, their licences, splits and usual image sizes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from jmeta.data.source import Dataset
from jmeta.data.sources.authors import LICENCES


class Entry(NamedTuple):
    """A data set: its `loader` as "module:function" below jmeta.data.sources, its `licence`, the published
    class `splits` (the first is the usual one), the usual `image_size`, and the `options` of `dataset` that
    mean something to it."""

    loader: str
    licence: str
    splits: tuple[str, ...]
    image_size: int | None
    options: tuple[str, ...]


_ARCHIVES = ("data_dir", "image_size", "cache")
_OWN = "the owner's"


def _published(name: str, module: str, splits: tuple[str, ...], size: int, *options: str) -> Entry:
    return Entry(f"{module}:{name}", LICENCES[name], splits, size, (*_ARCHIVES, *options))


CATALOG = {
    "glyphs": Entry("glyphs:dataset", "Apache-2.0 (made by jmeta)", ("procedural",), 28, ()),
    "sinusoid": Entry("sinusoid:dataset", "Apache-2.0 (made by jmeta)", ("procedural",), None, ()),
    "omniglot": _published("omniglot", "omniglot", ("vinyals", "lake"), 28, "split", "download"),
    "cifar10": _published("cifar10", "cifar", ("authors",), 32, "download"),
    "cifar100": _published("cifar100", "cifar", ("authors",), 32, "download"),
    "cifar_fs": _published("cifar_fs", "cifar", ("bertinetto",), 32, "download"),
    "fc100": _published("fc100", "cifar", ("oreshkin",), 32, "download"),
    "mini_imagenet": _published("mini_imagenet", "class_folders", ("ravi",), 84),
    "tiered_imagenet": _published("tiered_imagenet", "class_folders", ("ren",), 84),
    "cub": _published("cub", "class_folders", ("chen",), 84),
    "mnist": Entry("mnist:mnist", LICENCES["mnist"], ("authors",), 28, ("data_dir", "download")),
    "fashion_mnist": Entry(
        "mnist:fashion_mnist", LICENCES["fashion_mnist"], ("authors",), 28, ("data_dir", "download")
    ),
    "folder": Entry("folder:folder", _OWN, ("seed",), None, (*_ARCHIVES, "split", "seed", "colour")),
    "features": Entry("features:features", _OWN, ("seed",), None, ("data_dir", "split", "seed")),
}


def dataset(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    split: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    colour: bool | None = None,
    cache: bool | str | None = None,
    download: bool | None = None,
) -> Dataset:
    """Load a data set of the catalogue. None leaves an option at the usual value of that data set.

    `data_dir`: the folder of the data set or its parent; else $JMETA_DATA, then the folder of
    tensorflow-datasets. `image_size`: height and width in pixels. `split`: a published split by name, or for
    one's own data a JSON file of class names. `seed`: of the division of one's own classes. `colour`: True or
    False for one's own images. `cache`: whether, or in which folder, decoded images are kept. `download`:
    whether to fetch archives that are missing (Omniglot, CIFAR, MNIST, Fashion-MNIST).

    Returns a `Dataset`, whose `episodes(split, way=, shot=, query=)` makes samplers. Raises ValueError for an
    unknown name or an option that means nothing to the data set, and DataError (one line: what, where, what
    to do) for data that are missing or damaged. Data that are missing are never replaced by others.
    """
    if name not in CATALOG:
        close = difflib.get_close_matches(name, CATALOG, 1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown dataset {name!r}{meant} (known: {', '.join(CATALOG)})")
    entry = CATALOG[name]
    given = {
        "data_dir": data_dir, "image_size": image_size, "split": split, "seed": seed, "colour": colour,
        "cache": cache, "download": download,
    }  # fmt: skip
    options = {option: value for option, value in given.items() if value is not None}
    if stray := [option for option in options if option not in entry.options]:
        understood = ", ".join(entry.options) or "none"
        raise ValueError(f"dataset {name!r} has no option {stray[0]!r} (its options: {understood})")
    if image_size is not None and not (isinstance(image_size, int) and 1 <= image_size <= 1024):
        raise ValueError(f"image_size is {image_size!r}; expected an integer from 1 to 1024")
    return _loader(entry.loader)(**options)


def _loader(reference: str) -> Callable[..., Any]:
    module, _, function = reference.partition(":")
    return getattr(import_module(f"jmeta.data.sources.{module}"), function)
