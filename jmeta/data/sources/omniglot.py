"""Omniglot (Lake et al. 2015): 1623 handwritten characters of 50 alphabets, each drawn by 20 people."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from jmeta.data import splits
from jmeta.data.episodes import from_splits
from jmeta.data.errors import DataError
from jmeta.data.source import Dataset, DatasetInfo, check_split
from jmeta.data.sources.authors import LICENSES, PUBLISHED_SPLITS, checksum_notes
from jmeta.data.sources.cache import cached
from jmeta.data.sources.images import Decoding, File, ImageClasses, check_image_counts, load_images, take
from jmeta.data.sources.locate import Download, locate, locate_or_download
from jmeta.data.sources.prepared import find_prepared, is_prepared, read_prepared
from jmeta.data.sources.store import Store, open_store

IMAGE_SETS = ("images_background", "images_evaluation")
EXPECTED_ARCHIVES = "images_background.zip and images_evaluation.zip (or the folders in them)"
_DRAWERS = 20
_SPLITS: dict[str, Callable[[], splits.ClassSplit]] = {
    "vinyals": partial(splits.published_split, "omniglot_vinyals"),
    "lake": splits.lake_split,
}


def omniglot(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 28,
    split: str = "vinyals",
    cache: bool | str = True,
    download: Download | None = None,
) -> Dataset:
    """Load Omniglot as images [image_size, image_size, 1], ink 255 on 0, from the authors' archives.

    Images are resized by Pillow's Lanczos filter.

    Args:
      data_dir: the folder (else $JMETA_DATA) with images_background.zip and images_evaluation.zip, or the
        folders in them.
      image_size: height and width in pixels.
      split: "vinyals" (Vinyals et al. 2016) or "lake" (background/evaluation; a tenth of the background
        classes validate).
      cache: see `jmeta.data.sources.cache.cached`.
      download: prepares the data by tensorflow-datasets if they are not found.

    Raises:
      DataError: if the data are missing, damaged or incomplete.
      ValueError: for an unknown split.
    """
    classes = _SPLITS[check_split(split, _SPLITS)]()
    paths = locate_or_download(partial(locate_omniglot, data_dir), "jmeta_omniglot", download)
    decoding = Decoding(image_size, color=False, invert=True)
    settings = {"name": "omniglot", **decoding._asdict()}
    images = cached(paths, settings, partial(_decode, paths, decoding), cache)
    check_image_counts(images, [name for names in classes.values() for name in names], _DRAWERS, paths[0])
    origin, shape = f"{split}: {PUBLISHED_SPLITS['omniglot'][split]}", images.examples.shape[1:]
    info = DatasetInfo("omniglot", LICENSES["omniglot"], origin, classes, shape, images.notes)
    return from_splits(info, {name: take(images, members) for name, members in classes.items()})


def locate_omniglot(data_dir: str | os.PathLike[str] | None) -> tuple[Path, ...]:
    """Return the paths of `find_omniglot` in `data_dir` or the usual folders. Raises DataError if there are
    none."""
    return locate("omniglot", find_omniglot, data_dir, folders=("omniglot",), expected=EXPECTED_ARCHIVES)


def find_omniglot(folder: Path) -> tuple[Path, ...] | None:
    """Return the two archives or folders, or the folder that tensorflow-datasets prepared, if any is there.

    Raises DataError if one of the two archives is there and the other is not.
    """
    paths = [
        next((path for path in (folder / f"{part}.zip", folder / part) if path.exists()), None)
        for part in IMAGE_SETS
    ]
    there = tuple(path for path in paths if path is not None)
    if len(there) == 1:
        missing = IMAGE_SETS[1 - paths.index(there[0])]
        raise DataError(f"{missing}.zip is missing", folder, f"put it beside {there[0].name}")
    return there or find_prepared(folder, ("jmeta_omniglot", "omniglot"))


def files_by_character(store: Store) -> dict[str, list[File]]:
    """Group the drawings in one archive by class, "Alphabet/characterNN".

    Raises DataError if the archive is not laid out as .../Alphabet/characterNN/drawing.png.
    """
    files: dict[str, list[File]] = {}
    for name in store.files:
        parts = PurePosixPath(name).parts
        if len(parts) < 3 or not parts[-2].startswith("character"):
            layout = "expected <Alphabet>/characterNN/<drawing>.png as in the authors' archive"
            raise DataError("not laid out as Omniglot", f"{store.where}!{name}", layout)
        files.setdefault("/".join(parts[-3:-1]), []).append(store.file(name))
    return files


def _decode(paths: Sequence[Path], decoding: Decoding) -> ImageClasses:
    """Decode all classes at the paths of `find_omniglot`, in the order of their names."""
    if is_prepared(paths[0]):
        files = read_prepared(paths[0], _class_of_label)
    else:
        files = {}
        for path in paths:
            for name, members in files_by_character(open_store(path)).items():
                files.setdefault(name, []).extend(members)
    images = load_images(dict(sorted(files.items())), decoding, " and ".join(map(str, paths)))
    return images._replace(notes=checksum_notes(paths))


def _class_of_label(label: str) -> str:
    """Return the class of a label of tensorflow-datasets' own builder, "<Alphabet>_<number from 0>"."""
    if "/" in label:
        return label
    alphabet, _, number = label.rpartition("_")
    return f"{alphabet}/character{int(number) + 1:02d}"
