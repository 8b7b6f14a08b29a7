"""Data sets by name, as `jmeta.registry` lists them."""

from __future__ import annotations

from functools import partial
from typing import Any

from jmeta.data.source import Dataset
from jmeta.registry import entry, factory


def dataset(name: str, **options: Any) -> Dataset:
    """Load a data set by name. An option that is None has the usual value of that data set.

    Data that are missing are never replaced by others.

    Args:
      name: a name of `jmeta.registry.DATASETS`, such as "omniglot".
      **options: those that the registry lists for the data set, among them:
        `data_dir`: its folder or the parent of it; else $JMETA_DATA, then tensorflow-datasets' folder.
        `image_size`: height and width in pixels.
        `split`: a published split by name, or for the user's own data a JSON file of class names.
        `seed`: of the division of the user's own classes.
        `color`: "auto", "rgb" or "gray" for the user's own images.
        `cache`: whether, or in which folder, to store decoded images.
        `download`: whether to fetch archives that are missing (Omniglot, CIFAR, MNIST, Fashion-MNIST).

    Returns:
      A `Dataset`, whose `episodes(split, way=, shot=, query=)` makes samplers.

    Raises:
      ValueError: for an unknown name, or an option that the data set does not have.
      DataError: for data that are missing or damaged; one line says what, where, and what to do.
    """
    known = entry("dataset", name)
    options = {option: value for option, value in options.items() if value is not None}
    if unknown := [option for option in options if option not in known.settings]:
        available = ", ".join(known.settings) or "none"
        raise ValueError(f"dataset {name!r} has no option {unknown[0]!r} (its options: {available})")
    size = options.get("image_size")
    if size is not None and not (isinstance(size, int) and 1 <= size <= 1024):
        raise ValueError(f"image_size is {size!r}; expected an integer from 1 to 1024")
    if options.pop("download", False):
        options["download"] = partial(_download, options.get("data_dir"))
    return factory("dataset", name)(**options)


def _download(data_dir: Any, builder: str) -> None:
    # imported only now: tensorflow-datasets takes seconds, and most runs download nothing
    factory("downloader", "tensorflow_datasets")(builder, data_dir=data_dir)
