import gzip
import struct

import numpy as np
import pytest
from source_helpers import encode, noise, one_line, real_data

from jmeta.data.datasets import dataset
from jmeta.data.sources import authors, mnist
from jmeta.data.sources import idx as idx_module
from jmeta.data.sources.download import prepare_dataset
from jmeta.data.sources.idx import read_idx

COUNTS = {"train": 24, "test": 12}


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def parts():
    """A few images of every digit, in no order of theirs: {part: (images, labels)}."""
    return {
        part: (noise([1, seed], number, 28, 28), (np.arange(number) * 7 % 10).astype(np.uint8))
        for seed, (part, number) in enumerate(COUNTS.items())
    }


def write(folder, *, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in mnist.FILES.items():
        for name, array in zip(names, parts()[part]):
            raw = idx(array)
            (folder / (name if zipped else name[:-3])).write_bytes(gzip.compress(raw) if zipped else raw)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(mnist, "_SIZES", COUNTS)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_every_form_gives_the_same_arrays(tmp_path, name):
    folders = (write(tmp_path / "zipped" / name).parent, write(tmp_path / "plain", zipped=False))
    write(tmp_path / "archives")
    prepare_dataset(f"jmeta_{name}", archives=tmp_path / "archives", data_dir=tmp_path / "tfds")
    for folder in (*folders, tmp_path / "tfds"):
        data = dataset(name, data_dir=folder)
        for part, (images, labels) in parts().items():
            split = data.splits[part]
            assert split.counts.tolist() == np.bincount(labels, minlength=10).tolist()
            for label in range(10):
                rows = split.examples[split.offsets[label] :][: split.counts[label]]
                expected = {image.tobytes() for image in images[labels == label]}
                assert {row.tobytes() for row in rows} == expected


def test_one_data_set_is_not_taken_for_the_other(tmp_path):
    write(tmp_path / "fashion_mnist")
    with one_line("mnist: no data found", "train-images-idx3-ubyte.gz"):
        dataset("mnist", data_dir=tmp_path)
    with one_line("mnist: no data found"):
        dataset("mnist", data_dir=tmp_path / "fashion_mnist")
    assert dataset("fashion_mnist", data_dir=tmp_path).info.shape == (28, 28, 1)


def test_damage_is_one_line(tmp_path):
    folder = write(tmp_path / "mnist")
    images, labels = (folder / name for name in mnist.FILES["train"])
    whole = images.read_bytes()
    for broken, message in [
        (whole[: len(whole) // 2], "damaged or truncated archive"),
        (b"\0\0\x08\x03\0", "truncated idx file (5 bytes)"),
        (b"\0\0\x08\xff" + bytes(4 * 255), "idx file of 255 axes, expected 3"),
        (struct.pack(">HBB3I", 0, 8, 3, 0, 2**32 - 1, 2**32 - 1), "damaged idx file"),
        (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3), "truncated idx file"),
        (gzip.compress(idx(parts()["train"][0])[:-5]), "truncated idx file"),
        (b"<html>", "not an idx file"),
        (gzip.compress(idx(parts()["train"][0][:-1])), "do not fit"),
        (gzip.compress(idx(parts()["train"][0][:, 1:])), "do not fit"),
    ]:
        images.write_bytes(broken)
        with one_line(message, images):
            dataset("mnist", data_dir=tmp_path)
    images.write_bytes(whole)
    labels.write_bytes(gzip.compress(idx(parts()["train"][1] + 5)))
    with one_line("a label is 14", labels):
        dataset("mnist", data_dir=tmp_path)
    labels.unlink()
    with one_line("train-labels-idx1-ubyte.gz is missing", folder):
        dataset("mnist", data_dir=tmp_path)


def test_files_beyond_the_size_of_the_data_set_are_not_unpacked_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(idx_module, "_LARGEST", 5000)
    images = write(tmp_path / "mnist") / mnist.FILES["train"][0]
    with one_line("too large (more where at most 5,000 bytes are read)", images):
        dataset("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("change", ["label", "size"])
def test_prepared_data_of_another_form(tmp_path, monkeypatch, change):
    label, shape = ("cat", (28, 28)) if change == "label" else ("7", (28, 27))
    files = {label: [("record 0", lambda: encode(noise(0, *shape)))]}
    monkeypatch.setattr(mnist, "read_prepared", lambda *_, **__: files)
    with one_line("'cat', which is none of mnist" if change == "label" else "shape (28, 27, 1)", tmp_path):
        mnist._from_prepared(tmp_path, "mnist", "train")


def test_incomplete_data_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "mnist")
    monkeypatch.setattr(mnist, "_SIZES", {"train": 60_000, "test": 10_000})
    with one_line("train has 24 images, expected 60000"):
        dataset("mnist", data_dir=tmp_path)


def test_every_archive_has_an_address_and_a_checksum():
    for name in ("mnist", "fashion_mnist"):
        for file in (f"{name}/{file}" for files in mnist.FILES.values() for file in files):
            assert authors.URLS[file].endswith(file.rpartition("/")[2]) and len(authors.SHA256[file]) == 64


@pytest.mark.parametrize(("name", "first"), [("mnist", [5, 0, 4, 1]), ("fashion_mnist", [9, 0, 0, 3])])
def test_real_data(name, first, monkeypatch):
    monkeypatch.setattr(mnist, "_SIZES", {"train": 60_000, "test": 10_000})
    folder = real_data(name)
    labels = read_idx(folder / name / mnist.FILES["train"][1], axes=1)
    assert labels[:4].tolist() == first
    data = dataset(name, data_dir=folder)
    assert data.splits["test"].counts.sum() == 10_000 and data.splits["train"].examples.max() == 255


def test_prepared_data_without_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "read_prepared", lambda *_, **__: {})
    with one_line("no image found in train", tmp_path):
        mnist._from_prepared(tmp_path, "mnist", "train")
