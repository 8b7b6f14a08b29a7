"""What the authors of the data sets say: licences, where their archives are and what these hash to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_IMAGENET = "ImageNet's terms of access: non-commercial research and education"
_CIFAR = "none stated by its authors (Krizhevsky 2009); images collected from the web, for research"
LICENCES = {
    "omniglot": "MIT (Lake et al.)",
    "cifar_fs": _CIFAR,
    "fc100": _CIFAR,
    "mini_imagenet": _IMAGENET,
    "tiered_imagenet": _IMAGENET,
    "cub": "none stated by its authors (Wah et al. 2011); non-commercial research and education",
}
URLS = {
    "images_background.zip": "https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip",
    "images_evaluation.zip": "https://github.com/brendenlake/omniglot/raw/master/python/images_evaluation.zip",
    "cifar-100-binary.tar.gz": "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
}
SHA256 = {
    "images_background.zip": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    "images_evaluation.zip": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    "cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
}


def checksum_notes(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a note for each archive that is not byte for byte its authors', for `DatasetInfo.notes`.

    A difference is no error: archives are made anew with equal pixels; what is damaged does not decode.
    """
    notes = []
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == SHA256.get(path.name)
            notes += [] if same else [f"the checksum of {path.name} differs from the authors' archive"]
    return tuple(notes)
