"""Decoding images into one uint8 array grouped by class.

Images are read as a viewer shows them: upright, transparent pixels over white, 16 bits rounded to 8, of an
animation the first frame. Color profiles are not applied.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jmeta.data.class_dataset import ClassDataset
from jmeta.data.errors import DataError
from jmeta.data.sources.guard import quote
from jmeta.data.sources.png import check_png
from jmeta.data.sources.uncompressed import check_uncompressed

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # none that runs another program
MOST_PIXELS = 2**27  # of an image: 512 MB decoded, of which a few kilobytes on disk may be enough
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE_IS_ZERO = 0x0106  # the TIFF tag of what 0 means: 0 is white
_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "area": Image.Resampling.BOX}

File = tuple[str, Callable[[], bytes | np.ndarray]]  # its name in messages, and the function that reads it


class Decoding(NamedTuple):
    """The settings by which images become arrays: square `size` (None leaves it), `color` (True is RGB, False
    is gray, None is RGB if any of the images has color), the resize `filter` ("lanczos" or "area"), and
    whether to `invert` (Omniglot: ink 255 on 0)."""

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


def load_images(
    files: Mapping[str, Sequence[File]], decoding: Decoding, where: object = None
) -> ImageClasses:
    """Decode the `files` of each class, in the order of `files`, each once.

    Within a class the rows are sorted by their bytes, so that the same images make the same arrays, whichever
    archive or folder they come from. Notes say how many images were gray among color ones, and how many have
    further frames. Raises DataError for an image that does not decode, an empty class, and images that differ
    in size if `decoding` sets none; `where` is the place of the files, for messages.
    """
    empty = [name for name, members in files.items() if not members]
    if empty or not files:
        what = f"class {quote(empty[0])} has no image" if empty else "no image found"
        raise DataError(what, where, "complete the data")
    counts = tuple(len(members) for members in files.values())
    decoded = (
        (label, _decode(label, read(), decoding)) for members in files.values() for label, read in members
    )
    first_label, first = next(decoded)
    examples = np.empty((sum(counts), *first.pixels.shape), np.uint8)
    examples[0] = first.pixels
    grays, moving = int(first.pixels.shape[-1] == 1), int(first.further_frames)
    for row, (label, image) in enumerate(decoded, 1):
        if image.pixels.shape[:2] != first.pixels.shape[:2]:
            raise _differ(first_label, first.pixels, label, image.pixels)
        if image.pixels.shape[-1] > examples.shape[-1]:  # the first one of color after gray ones
            examples = _as_color(examples, row)
        examples[row] = image.pixels  # a gray one fills all channels
        grays, moving = grays + (image.pixels.shape[-1] == 1), moving + image.further_frames
    start = 0
    for count in counts:
        rows = examples[start : start + count]
        rows[:] = rows[sorted(range(count), key=[row.tobytes() for row in rows].__getitem__)]
        start += count
    mixed = decoding.color is None and 0 < grays < len(examples)
    notes = (
        f"{grays} of {len(examples)} images are gray and the others in color: color=auto reads all as RGB",
        f"images of several frames or pages, of which the first is read: {moving}",
    )
    return ImageClasses(
        examples, tuple(files), counts, tuple(note for note, holds in zip(notes, (mixed, moving)) if holds)
    )


def _as_color(examples: np.ndarray, filled: int) -> np.ndarray:
    """Repeat the one channel of the first `filled` examples [total, height, width, 1] three times."""
    colored = np.empty((*examples.shape[:-1], 3), np.uint8)
    colored[:filled] = examples[:filled]
    return colored


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
    return _decode(label, raw, decoding).pixels


class _Decoded(NamedTuple):
    """One image: `pixels` uint8 [height, width, channel], and whether its file has `further_frames`."""

    pixels: np.ndarray
    further_frames: bool = False


def _decode(label: str, raw: bytes | np.ndarray, decoding: Decoding) -> _Decoded:
    try:
        if isinstance(raw, np.ndarray):
            return _Decoded(_pixels(Image.fromarray(raw), decoding))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, which are counted below, and of odd metadata
            with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
                _check(image, raw)
                return _Decoded(_pixels(image, decoding), _has_further_frames(image))
    except Exception as error:  # a decoder that meets garbage may raise anything
        reason = str(error).split("<")[0].strip(" :")[:200] or type(error).__name__
        advice = "replace or remove the file, or fetch the archive again"
        raise DataError(f"image does not decode ({reason})", label, advice) from error


def _check(image: Image.Image, raw: bytes) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it has {image.width * image.height:,} pixels; at most {MOST_PIXELS:,} are read")
    if image.format == "PNG":
        check_png(raw)
    else:
        check_uncompressed(image, raw)


def _has_further_frames(image: Image.Image) -> bool:
    if image.format in ("JPEG", "MPO"):  # further pictures in a photograph are its previews
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # garbage behind the first frame, which was read
        return False


def _pixels(image: Image.Image, decoding: Decoding) -> np.ndarray:
    image.load()
    turn = _UPRIGHT.get(_orientation(image) or 1)
    image = _over_white(_in_8_bits(image))
    gray = image.mode in ("1", "L") if decoding.color is None else not decoding.color
    image = image.convert("L" if gray else "RGB")  # before resizing: 1-bit images have no shades to average
    if turn is not None:
        image = image.transpose(turn)
    if decoding.size is not None and image.size != (decoding.size, decoding.size):
        image = image.resize((decoding.size, decoding.size), _FILTERS[decoding.filter])
    pixels = np.asarray(image).reshape(image.height, image.width, -1)  # [height, width, channel]
    return 255 - pixels if decoding.invert else pixels


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata do not make an image unreadable
        return None


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Round gray images of 16 bits to 8; others pass. Raises ValueError for pixels of 32 bits."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not sixteen:
        if image.mode in ("I", "F"):
            raise ValueError(f"its pixels have 32 bits, mode {image.mode}; save it with 8 or 16")
        return image
    values = np.asarray(image).astype(np.int64)
    if image.format == "TIFF" and image.tag_v2.get(_WHITE_IS_ZERO) == 0:  # type: ignore[attr-defined]
        values = 65535 - values
    transparent = image.info.get("transparency")
    if transparent is not None:
        values = np.where(values == transparent, 65535, values)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    """Compose an image with transparent pixels over white, of mode L if it is gray; others pass."""
    if not image.has_transparency_data:
        return image
    gray = image.mode in ("1", "L", "LA", "La")
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 255:  # of a PNG of 16 bits, read as 8
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    layer = image.convert("RGBA")
    alpha = layer.getchannel("A")
    composed = Image.new("RGB", image.size, "white")
    composed.paste(layer, mask=alpha)
    return composed.convert("L") if gray else composed


def _differ(first_label: str, first: np.ndarray, label: str, image: np.ndarray) -> DataError:
    sizes = f"{first.shape[0]}x{first.shape[1]} and {image.shape[0]}x{image.shape[1]}"
    advice = "give one size to all, as image_size=84"
    return DataError(f"images differ in size ({sizes})", f"{first_label} and {label}", advice)
