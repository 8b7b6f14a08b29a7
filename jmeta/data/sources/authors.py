"""The facts that authors publish with their data: licenses, class splits, addresses and checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from jmeta.data.sources.guard import reading

_IMAGENET = "ImageNet's terms of access: non-commercial research and education"
_CIFAR = "none stated by its authors (Krizhevsky 2009); images collected from the web, for research"
_PROCEDURAL = "Apache-2.0 (made by jmeta)"
_OWN = "the owner's"
LICENSES = {
    "glyphs": _PROCEDURAL,
    "sinusoid": _PROCEDURAL,
    "omniglot": "MIT (Lake et al.)",
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "cifar_fs": _CIFAR,
    "fc100": _CIFAR,
    "mini_imagenet": _IMAGENET,
    "tiered_imagenet": _IMAGENET,
    "cub": "none stated by its authors (Wah et al. 2011); non-commercial research and education",
    "mnist": "CC BY-SA 3.0 (LeCun et al.)",
    "fashion_mnist": "MIT (Zalando SE)",
    "folder": _OWN,
    "features": _OWN,
}
# By data set, then by the name of the split; the first is the usual one.
PUBLISHED_SPLITS = {
    "omniglot": {
        "vinyals": "Vinyals et al. 2016, 1028/172/423 classes",
        "lake": "Lake et al. 2015, evaluation alphabets test; a tenth of the background validates",
    },
    "cifar10": {"authors": "Krizhevsky 2009, 50,000 to train, 10,000 to test"},
    "cifar100": {"authors": "Krizhevsky 2009, 50,000 to train, 10,000 to test"},
    "cifar_fs": {"bertinetto": "Bertinetto et al. 2019, 64/16/20 classes"},
    "fc100": {"oreshkin": "Oreshkin et al. 2018, 60/20/20 classes"},
    "mini_imagenet": {"ravi": "Ravi and Larochelle 2017, 64/16/20 classes"},
    "tiered_imagenet": {"ren": "Ren et al. 2018, 351/97/160 classes of 20/6/8 categories"},
    "cub": {"chen": "Chen et al. 2019, 100/50/50 classes"},
    "mnist": {"authors": "LeCun et al. 1998, 60,000 to train, 10,000 to test"},
    "fashion_mnist": {"authors": "Xiao et al. 2017, 60,000 to train, 10,000 to test"},
}
_FOUR_FILES = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
}
URLS = {
    "images_background.zip": "https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip",
    "images_evaluation.zip": "https://github.com/brendenlake/omniglot/raw/master/python/images_evaluation.zip",
    "cifar-10-binary.tar.gz": "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "cifar-100-binary.tar.gz": "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
}
SHA256 = {
    "images_background.zip": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    "images_evaluation.zip": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
}
_FOUR_FILES_SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}
# These two data sets have the same file names, so the name of the data set goes before them.
for _name, _files in _FOUR_FILES_SHA256.items():
    SHA256 |= {f"{_name}/{file}": digest for file, digest in _files.items()}
    URLS |= {f"{_name}/{file}": f"{_FOUR_FILES[_name]}/{file}" for file in _files}


def checksum_notes(paths: Sequence[Path], prefix: str = "") -> tuple[str, ...]:
    """Return a note, for `DatasetInfo.notes`, for each archive that is not byte-identical to its authors'.

    `prefix` goes before the file names in `SHA256`. A difference is no error: an archive may be repacked with
    the same pixels, and a damaged one does not decode.
    """
    notes = []
    for path in paths:
        if path.is_file():
            with reading(path), path.open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == SHA256.get(prefix + path.name)
            notes += [] if same else [f"the checksum of {path.name} differs from the authors' archive"]
    return tuple(notes)
