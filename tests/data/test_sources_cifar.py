import gzip
import io
import tarfile

import numpy as np
import pytest
from source_helpers import encode, noise, one_line, real_data, write_tree, write_zip

from jmeta.data import splits
from jmeta.data.datasets import dataset
from jmeta.data.sources import cifar

WANTED = ("train.bin", "test.bin", "fine_label_names.txt")
SIZES = {"cifar_fs": (64, 16, 20), "fc100": (60, 20, 20)}


def pictures():
    """Three pictures of each class, {(part, class): [pixels, ...]}."""
    number = {"train": 2, "test": 1}
    return {
        (part, name): [noise([index, part == "test", row], 32, 32, 3) for row in range(number[part])]
        for part in ("train", "test")
        for index, name in enumerate(cifar.class_names())
    }


def class_folders(format):
    return {
        f"cifar100/{part}/{name}/{row}.{format.lower()}": encode(pixels, format)
        for (part, name), images in pictures().items()
        for row, pixels in enumerate(images)
    }


def binary():
    names = cifar.class_names()
    files = {"fine_label_names.txt": "\n".join(names).encode() + b"\n"}
    for part in ("train", "test"):
        files[f"{part}.bin"] = b"".join(
            bytes([0, names.index(name)]) + pixels.transpose(2, 0, 1).tobytes()
            for (where, name), images in pictures().items()
            if where == part
            for pixels in images
        )
    return files


def write_tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, raw in files.items():
            entry = tarfile.TarInfo(f"cifar-100-binary/{name}")
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cifar, "_IMAGES_PER_CLASS", 3)


@pytest.mark.parametrize("name", SIZES)
def test_published_splits(name):
    lists = splits.published_split(name)
    assert tuple(len(lists[split]) for split in ("train", "validation", "test")) == SIZES[name]
    assert {label for labels in lists.values() for label in labels} == set(cifar.class_names())
    assert len(cifar.class_names()) == 100
    assert "train" in cifar.class_names()


def test_every_form_gives_the_same_arrays(tmp_path, small):
    for folder in ("zip", "webp", "tar", "unpacked"):
        (tmp_path / folder).mkdir()
    write_zip(tmp_path / "zip/cifar100.zip", class_folders("PNG"))
    write_zip(tmp_path / "webp/CIFAR-100-webp.zip", class_folders("WEBP"))
    write_tree(tmp_path / "tree", class_folders("PNG"))
    write_tar(tmp_path / "tar/cifar-100-binary.tar.gz", binary())
    write_tree(tmp_path / "unpacked/cifar-100-binary", binary())
    paths = ("zip", "webp", "tree", "tar", "unpacked", "zip/cifar100.zip")
    loaded = [dataset("cifar_fs", data_dir=tmp_path / path, cache=False) for path in paths]
    for data in loaded:
        for split, count in zip(("train", "validation", "test"), SIZES["cifar_fs"]):
            assert data.splits[split].counts.tolist() == [3] * count
            np.testing.assert_array_equal(data.splits[split].examples, loaded[0].splits[split].examples)
    position = loaded[0].info.classes["train"].index("train")
    rows = loaded[0].splits["train"].examples[position * 3 : position * 3 + 3]
    expected = pictures()[("train", "train")] + pictures()[("test", "train")]
    assert {row.tobytes() for row in rows} == {pixels.tobytes() for pixels in expected}


def test_damaged_and_foreign_archives(tmp_path, small):
    with one_line("cifar_fs: no data found", "cifar-100-binary.tar.gz", tmp_path):
        dataset("cifar_fs", data_dir=tmp_path)
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"")
    with one_line("pickles run code and are never loaded"):
        dataset("cifar_fs", data_dir=tmp_path)
    with one_line("never loaded", "cifar-100-binary.tar.gz"):
        dataset("cifar_fs", data_dir=tmp_path / "cifar-100-python.tar.gz", cache=False)
    (tmp_path / "cifar100.zip").mkdir()
    with one_line("no image found", tmp_path / "cifar100.zip"):
        dataset("cifar_fs", data_dir=tmp_path, cache=False)
    path = tmp_path / "cifar-100-binary.tar.gz"
    write_tar(path, binary())
    path.write_bytes(path.read_bytes()[:50000])
    with one_line("damaged or truncated archive", path):
        dataset("cifar_fs", data_dir=tmp_path, cache=False)
    files = binary()
    write_tar(path, {**files, "train.bin": files["train.bin"][:-1]})
    with one_line("train.bin is truncated", path):
        dataset("cifar_fs", data_dir=tmp_path, cache=False)
    write_tar(path, {name: files[name] for name in ("train.bin", "fine_label_names.txt")})
    with one_line("test.bin is missing", path):
        dataset("fc100", data_dir=tmp_path, cache=False)


def test_a_tar_is_read_to_its_checksum(tmp_path, small):
    path = tmp_path / "cifar-100-binary.tar.gz"
    write_tar(path, binary())
    whole, members = path.read_bytes(), cifar._binary_members(path, WANTED)
    assert members == binary()
    generator = np.random.default_rng(0)
    for _ in range(8):
        damaged = bytearray(whole)
        damaged[generator.integers(20, len(whole))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        with one_line("damaged or truncated", path):
            cifar._binary_members(path, WANTED)
    path.write_bytes(whole[:-8])  # all of the tar, without the checksum
    with one_line("damaged or truncated", path):
        dataset("cifar_fs", data_dir=tmp_path, cache=False)


def test_tar_with_a_file_twice_or_with_more_than_the_authors_have(tmp_path, monkeypatch):
    path = tmp_path / "cifar-100-binary.tar.gz"
    write_tar(path, {**binary(), "again/train.bin": b""})
    with one_line("train.bin more than once", path):
        cifar._binary_members(path, WANTED)
    write_tar(path, {**binary(), "notes/readme": bytes(9000)})
    assert cifar._binary_members(path, WANTED) == binary()
    monkeypatch.setattr(cifar, "_LARGEST", 9000)
    with one_line("too large", path):
        cifar._binary_members(path, WANTED)


def tar_header(name, size, type=b"0"):
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    header[124:136], header[156:157] = size, type
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    return bytes(header)


@pytest.mark.parametrize(
    "content",
    [
        tar_header("train.bin", b"\xff" * 11 + b"\0"),  # minus 256: the next header would be an earlier one
        tar_header("train.bin", b"\x80" + b"\xff" * 11),
        tar_header("train.bin", b"00000001000\0"),
        tar_header("train.bin", b"0000000000x\0"),
        tar_header("PaxHeader", b"77777777777\0", b"x"),
        tar_header("train.bin", b"00000000000\0")[:400],
        b"no tar at all",
    ],
)
def test_damaged_headers_of_a_tar(tmp_path, content):
    path = tmp_path / "cifar-100-binary.tar.gz"
    path.write_bytes(gzip.compress(content))
    with one_line("damaged or truncated archive", path):
        cifar._binary_members(path, WANTED)


def test_links_in_a_tar_are_no_files(tmp_path):
    path = tmp_path / "cifar-100-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for type in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo("train.bin")
            entry.type, entry.linkname = type, "/etc/passwd"
            archive.addfile(entry)
    with one_line("train.bin is missing", path):
        cifar.files_by_part(path)


def test_class_folders_laid_out_otherwise_or_incomplete(tmp_path, small):
    files = class_folders("PNG")
    path = write_zip(
        tmp_path / "cifar100.zip", {name.replace("cifar100/", ""): files[name] for name in files}
    )
    dataset("cifar_fs", data_dir=tmp_path, cache=False)
    write_zip(path, {"cifar100/train/apple/1.png": files["cifar100/train/apple/0.png"]})
    with one_line("99 of 100 classes are missing"):
        dataset("cifar_fs", data_dir=tmp_path, cache=False)
    write_zip(path, {**files, "cifar100/train/apples/1.png": b""})
    with one_line("not laid out as cifar100", "apples/1.png"):
        dataset("cifar_fs", data_dir=tmp_path, cache=False)


def test_the_authors_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_SIZES", {"train": 200, "test": 100})
    write_zip(tmp_path / "cifar100.zip", class_folders("PNG"))
    data = dataset("cifar100", data_dir=tmp_path, cache=False)
    assert data.splits["train"].counts.tolist() == [2] * 100
    assert data.splits["test"].counts.tolist() == [1] * 100
    label = cifar.class_names().index("train")
    np.testing.assert_array_equal(data.splits["test"].examples[label], pictures()[("test", "train")][0])
    monkeypatch.setattr(cifar, "_SIZES", {"train": 300, "test": 100})
    with one_line("class 'apple' has 2 images, not 3"):
        dataset("cifar100", data_dir=tmp_path, cache=False)


def test_cifar10_from_its_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_SIZES", {"train": 50, "test": 10})
    names, images = cifar.class_names(cifar.CIFAR10), {}
    files = {cifar.CIFAR10.names: "\n".join((*names, "", "")).encode()}
    for number, name in enumerate((*cifar.CIFAR10.parts[0], *cifar.CIFAR10.parts[1])):
        images[name] = [noise([number, label], 32, 32, 3) for label in range(10)]
        files[name] = b"".join(
            bytes([label]) + pixels.transpose(2, 0, 1).tobytes() for label, pixels in enumerate(images[name])
        )
    write_tar(tmp_path / "cifar-10-binary.tar.gz", files)
    data = dataset("cifar10", data_dir=tmp_path, cache=False)
    assert data.splits["train"].counts.tolist() == [5] * 10
    assert data.info.classes["test"][3] == "cat"
    np.testing.assert_array_equal(data.splits["test"].examples, np.stack(images["test_batch.bin"]))
    cats = {images[name][3].tobytes() for name in cifar.CIFAR10.parts[0]}
    assert {row.tobytes() for row in data.splits["train"].examples[15:20]} == cats
    with one_line("cifar100: no data found"):
        dataset("cifar100", data_dir=tmp_path, cache=False)


@pytest.mark.slow
def test_real_cifar(tmp_path):
    folder = real_data("cifar100")
    for name, sizes in SIZES.items():
        data = dataset(name, data_dir=folder, cache=str(tmp_path))
        for split, size in zip(("train", "validation", "test"), sizes):
            assert data.splits[split].counts.tolist() == [600] * size
            assert data.splits[split].examples.shape == (600 * size, 32, 32, 3)
    path = cifar.locate_cifar(folder, name="cifar100")
    test = cifar._images(cifar.CIFAR100, path, ("test",), 32, str(tmp_path))
    assert (test.classes, test.counts) == (cifar.class_names(), (100,) * 100)
