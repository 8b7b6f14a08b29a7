"""Omniglot (Lake et al. 2015): 1623 handwritten characters of 50 alphabets, each drawn by 20 people."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from jmeta.data import splits
from jmeta.data.errors import DataError
from jmeta.data.source import Dataset, DatasetInfo, check_split, from_splits
from jmeta.data.sources import prepared
from jmeta.data.sources.authors import LICENCES, checksum_notes
from jmeta.data.sources.cache import cached
from jmeta.data.sources.images import Decoding, File, ImageClasses, check_complete, load_images, take
from jmeta.data.sources.locate import locate
from jmeta.data.sources.store import Store, open_store

PARTS = ("images_background", "images_evaluation")
DRAWERS = 20
_SPLITS: dict[str, tuple[Callable[[], splits.ClassSplit], str]] = {
    "vinyals": (partial(splits.published, "omniglot_vinyals"), "Vinyals et al. 2016, 1028/172/423 classes"),
    "lake": (splits.lake, "Lake et al. 2015, evaluation alphabets test; a tenth of the background validates"),
}


def omniglot(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 28,
    split: str = "vinyals",
    cache: bool | str = True,
    download: bool = False,
) -> Dataset:
    """Load Omniglot as images [image_size, image_size, 1], ink 255 on 0, from the authors' archives.

    `split`: "vinyals" (Vinyals et al. 2016) or "lake" (background/evaluation, a tenth of the background
    classes validating). Images are resized by Pillow's Lanczos filter. `data_dir` (or $JMETA_DATA) holds
    images_background.zip and images_evaluation.zip or the folders in them; `download` fetches what is missing
    by tensorflow-datasets. `cache` is that of `jmeta.data.sources.cache.cached`. Raises DataError for data
    that are missing, damaged or incomplete, ValueError for an unknown split.
    """
    lists, origin = _SPLITS[check_split(split, _SPLITS)]
    found = prepared.or_download(
        partial(locate, "omniglot", find, data_dir, folders=("omniglot",), expected=EXPECTED),
        "jmeta_omniglot",
        data_dir,
        download,
    )
    decoding = Decoding(image_size, colour=False, invert=True)
    settings = {"name": "omniglot", **decoding._asdict()}
    images = cached(found, settings, partial(load, found, decoding), cache)
    chosen = lists()
    check_complete(images, [name for names in chosen.values() for name in names], DRAWERS, found[0])
    shape = images.examples.shape[1:]
    info = DatasetInfo("omniglot", LICENCES["omniglot"], f"{split}: {origin}", chosen, shape, images.notes)
    return from_splits(info, {name: take(images, classes) for name, classes in chosen.items()})


EXPECTED = "images_background.zip and images_evaluation.zip (or the folders in them)"


def find(folder: Path) -> tuple[Path, ...] | None:
    """Return the two archives or folders, or the folder that tensorflow-datasets prepared, if any is there.

    Raises DataError where one of the two archives is there and the other is not.
    """
    paths = [next((p for p in (folder / f"{part}.zip", folder / part) if p.exists()), None) for part in PARTS]
    there = tuple(path for path in paths if path is not None)
    if len(there) == 1:
        missing = PARTS[1 - paths.index(there[0])]
        raise DataError(f"{missing}.zip is missing", folder, f"put it beside {there[0].name}")
    return there or prepared.find(folder, ("jmeta_omniglot", "omniglot"))


def load(found: Sequence[Path], decoding: Decoding) -> ImageClasses:
    """Decode all classes of what `find` found, in the order of their names."""
    if prepared.is_prepared(found[0]):
        files = prepared.read(found[0], _class_of_label)
    else:
        files = {}
        for path in found:
            for name, members in by_character(open_store(path)).items():
                files.setdefault(name, []).extend(members)
    return load_images(dict(sorted(files.items())), decoding)._replace(notes=checksum_notes(found))


def by_character(store: Store) -> dict[str, list[File]]:
    """Group the drawings in one archive by class, "Alphabet/characterNN".

    Raises DataError where the archive is not laid out as .../Alphabet/characterNN/drawing.png.
    """
    files: dict[str, list[File]] = {}
    for name in store.files:
        parts = PurePosixPath(name).parts
        if len(parts) < 3 or not parts[-2].startswith("character"):
            layout = "expected <Alphabet>/characterNN/<drawing>.png as in the authors' archive"
            raise DataError("not laid out as Omniglot", f"{store.where}!{name}", layout)
        files.setdefault("/".join(parts[-3:-1]), []).append(store.file(name))
    return files


def _class_of_label(label: str) -> str:
    """Return the class of a label of tensorflow-datasets' own builder, "<Alphabet>_<number from 0>"."""
    if "/" in label:
        return label
    alphabet, _, number = label.rpartition("_")
    return f"{alphabet}/character{int(number) + 1:02d}"
