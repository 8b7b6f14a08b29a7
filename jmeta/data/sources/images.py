"""Decoding images into one uint8 array grouped by class."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jmeta.data.class_dataset import ClassDataset
from jmeta.data.errors import DataError

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # none that runs another program
_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "area": Image.Resampling.BOX}

File = tuple[str, Callable[[], bytes | np.ndarray]]  # its name in messages, and the function that reads it


class Decoding(NamedTuple):
    """The settings by which images become arrays: square `size` and `color` (None leaves them as they are),
    the resize `filter` ("lanczos" or "area"), and whether to `invert` (Omniglot: ink 255 on 0)."""

    size: int | None
    color: bool | None
    filter: str = "lanczos"
    invert: bool = False


class ImageClasses(NamedTuple):
    """Images grouped by class: `examples` [total, height, width, channel] uint8, the `classes` in the order
    of their rows, the number of rows of each in `counts`, and `notes` about their origin."""

    examples: np.ndarray
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    notes: tuple[str, ...] = ()


def load_images(files: Mapping[str, Sequence[File]], decoding: Decoding) -> ImageClasses:
    """Decode the `files` of each class, in the order of `files`.

    Within a class the rows are sorted by their bytes, so that the same images make the same arrays, whichever
    archive or folder they come from. Raises DataError for an image that does not decode, an empty class, and
    images that differ in size or number of channels if `decoding` sets none.
    """
    empty = [name for name, members in files.items() if not members]
    if empty or not files:
        raise DataError(f"class {empty[0]!r} has no image" if empty else "no image found")
    counts = tuple(len(members) for members in files.values())
    decoded = (
        (label, decode(label, read(), decoding)) for members in files.values() for label, read in members
    )
    first_label, first = next(decoded)
    examples = np.empty((sum(counts), *first.shape), np.uint8)
    examples[0] = first
    for row, (label, image) in enumerate(decoded, 1):
        if image.shape != first.shape:
            raise _mixed(first_label, first, label, image)
        examples[row] = image
    start = 0
    for count in counts:
        rows = examples[start : start + count]
        rows[:] = rows[sorted(range(count), key=[row.tobytes() for row in rows].__getitem__)]
        start += count
    return ImageClasses(examples, tuple(files), counts)


def take(images: ImageClasses, classes: Sequence[str]) -> ClassDataset:
    """Return the named classes, in that order, in host memory: a view if they are adjacent and in order."""
    position = {name: index for index, name in enumerate(images.classes)}
    chosen = np.array([position[name] for name in classes])
    all_counts = np.array(images.counts)
    starts, counts = (np.cumsum(all_counts) - all_counts)[chosen], all_counts[chosen]
    if bool((np.diff(chosen) == 1).all()):
        examples = np.asarray(images.examples[starts[0] : starts[0] + counts.sum()])
    else:
        examples = np.concatenate([images.examples[start : start + n] for start, n in zip(starts, counts)])
    offsets = np.cumsum(counts) - counts
    return ClassDataset(examples, offsets.astype(np.int32), counts.astype(np.int32))  # type: ignore[arg-type]


def check_image_counts(images: ImageClasses, classes: Sequence[str], number: int, where: Path) -> None:
    """Raise DataError unless `images` has all `classes`, with `number` images each."""
    counts = dict(zip(images.classes, images.counts))
    if missing := [name for name in classes if name not in counts]:
        raise DataError(
            f"{len(missing)} of {len(classes)} classes are missing, {missing[0]!r} the first",
            where,
            "the data are incomplete: fetch them again",
        )
    wrong = [name for name in classes if counts[name] != number]
    if wrong:
        raise DataError(
            f"class {wrong[0]!r} has {counts[wrong[0]]} images, not {number} ({len(wrong)} such classes)",
            where,
            "the data are incomplete or mixed with others: fetch them again",
        )


def decode(label: str, raw: bytes | np.ndarray, decoding: Decoding) -> np.ndarray:
    """Decode one image, the bytes of a file or pixels [height, width, 3], to uint8 [height, width, channel].

    Raises DataError, which names `label`, if it does not decode.
    """
    try:
        if isinstance(raw, np.ndarray):
            return _pixels(Image.fromarray(raw), decoding)
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            if image.format == "JPEG":
                ImageOps.exif_transpose(image, in_place=True)
            return _pixels(image, decoding)
    except Exception as error:  # a decoder that meets garbage may raise anything
        reason = str(error).split("<")[0].strip(" :") or type(error).__name__
        advice = "replace or remove the file, or fetch the archive again"
        raise DataError(f"image does not decode ({reason})", label, advice) from error


def _pixels(image: Image.Image, decoding: Decoding) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels have more than 8 bits, mode {image.mode}")
    gray = image.mode in ("1", "L", "LA") if decoding.color is None else not decoding.color
    image = image.convert("L" if gray else "RGB")  # before resizing: 1-bit images have no shades to average
    if decoding.size is not None and image.size != (decoding.size, decoding.size):
        image = image.resize((decoding.size, decoding.size), _FILTERS[decoding.filter])
    pixels = np.asarray(image).reshape(image.height, image.width, -1)  # [height, width, channel]
    return 255 - pixels if decoding.invert else pixels


def _mixed(first_label: str, first: np.ndarray, label: str, image: np.ndarray) -> DataError:
    where = f"{first_label} and {label}"
    if image.shape[:2] != first.shape[:2]:
        sizes = f"{first.shape[0]}x{first.shape[1]} and {image.shape[0]}x{image.shape[1]}"
        return DataError(f"images differ in size ({sizes})", where, "give an image size")
    return DataError("gray and color images are mixed", where, "choose with color=False or color=True")
