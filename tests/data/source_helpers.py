"""Small archives for the tests of the data sources, and where the real ones are."""

import io
import os
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jmeta.data.errors import DataError


def encode(pixels, format="PNG", mode=None):
    """The bytes of an image file of pixels [height, width] or [height, width, 3]."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(pixels))
    options = {"lossless": True} if format == "WEBP" else {}
    (image.convert(mode) if mode else image).save(buffer, format, **options)
    return buffer.getvalue()


def noise(seed, *shape):
    """Pixels that differ from image to image."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_zip(path, files):
    """A zip archive of {name: bytes}."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return path


def write_tree(root, files):
    """A folder tree of {name: bytes}."""
    for name, raw in files.items():
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    return Path(root)


@contextmanager
def one_line(*parts):
    """Expect a DataError whose message is one line that holds all `parts`."""
    with pytest.raises(DataError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def real_data(name):
    """The folder of real data of that name; skips where there is none."""
    folder = Path(os.environ.get("JMETA_DATA") or Path(__file__).parents[3] / "shared/data")
    if not (folder / name).is_dir():
        pytest.skip(f"no real data: {folder / name} does not exist (set JMETA_DATA)")
    return folder
