import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from source_helpers import one_line, write_zip

from jmeta.data.datasets import dataset
from jmeta.data.errors import DataError
from jmeta.data.sources import features


def vectors(labels, seed=0):
    labels = np.asarray(labels)
    return {"x": np.random.default_rng(seed).normal(size=(len(labels), 4)), "y": labels}


def test_features_by_seed_by_array_by_file_and_three_files(tmp_path):
    labels = np.repeat(np.arange(5), 3)
    arrays = vectors(labels)
    np.savez(tmp_path / "all.npz", **arrays)
    data = dataset("features", data_dir=tmp_path)
    assert data.info.shape == (4,)
    assert [len(data.info.classes[name]) for name in ("train", "validation", "test")] == [3, 1, 1]
    (tmp_path / "split.json").write_text(json.dumps({"train": [4, 0], "validation": [1, 2], "test": [3]}))
    data = dataset("features", data_dir=tmp_path / "all.npz", split=tmp_path / "split.json")
    assert data.info.classes == {"train": ("0", "4"), "validation": ("1", "2"), "test": ("3",)}
    np.testing.assert_array_equal(data.splits["test"].examples, arrays["x"][9:12].astype(np.float32))
    split = np.array(["train"] * 6 + ["val"] * 3 + ["test"] * 6)
    np.savez(tmp_path / "all.npz", split=split, **arrays)
    data = dataset("features", data_dir=tmp_path)
    assert data.info.classes == {"train": ("0", "1"), "validation": ("2",), "test": ("3", "4")}
    (tmp_path / "all.npz").unlink()
    for name in ("train", "validation", "test"):
        np.savez(tmp_path / f"{name}.npz", **vectors(["b", "a", "b"]))
    data = dataset("features", data_dir=tmp_path)
    assert data.info.classes["validation"] == ("a", "b")
    assert data.splits["train"].counts.tolist() == [1, 2]


def test_unfit_features(tmp_path):
    path, arrays = tmp_path / "all.npz", vectors([0, 0, 1, 1, 2, 2])
    with one_line("features: no file is named"):
        dataset("features")
    with one_line("0 .npz files", tmp_path):
        dataset("features", data_dir=tmp_path)
    np.savez(path, x=arrays["x"])
    with one_line("lacks y and has x", path):
        dataset("features", data_dir=tmp_path)
    np.savez(path, x=arrays["x"], y=np.array([object()] * 6))
    with one_line("pickled objects", path):
        dataset("features", data_dir=tmp_path)
    path.write_bytes(pickle.dumps(arrays))
    with one_line("pickled objects", path):
        dataset("features", data_dir=tmp_path)
    np.savez(path, x=arrays["x"][:3], y=arrays["y"])
    with one_line("differ in length", path):
        dataset("features", data_dir=tmp_path)
    np.savez(path, x=arrays["x"], y=arrays["y"] / 2)
    with one_line("y is an array of type 'float64'", path, "expected integers or names"):
        dataset("features", data_dir=path)
    np.savez(path, split=arrays["y"], **arrays)
    with one_line("split is an array of type 'int64'", path, "expected names"):
        dataset("features", data_dir=path)
    np.savez(path, x=np.full((6, 2), np.nan), y=arrays["y"])
    with one_line("NaN", path):
        dataset("features", data_dir=tmp_path)
    np.savez(path, split=np.array(["train", "test"] * 3), **arrays)
    with one_line("split 'validation' is empty", path):
        dataset("features", data_dir=tmp_path)
    np.savez(path, split=np.array(["train", "test", "train", "train", "validation", "validation"]), **arrays)
    with one_line("class '0' is in more than one split", path):
        dataset("features", data_dir=tmp_path)
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[:200])
    with one_line("damaged", path):
        dataset("features", data_dir=tmp_path)
    np.save(tmp_path / "alone.npy", arrays["x"])
    with one_line("lacks x and y and has no named arrays", "alone.npy"):
        dataset("features", data_dir=tmp_path / "alone.npy")


def test_split_files_in_any_spelling(tmp_path):
    for seed, name in enumerate(("train.npz", "VAL.NPZ", "Test.npz")):
        np.savez(tmp_path / "written.npz", **vectors(["a", "b"], seed))
        (tmp_path / "written.npz").rename(tmp_path / name)
    data = dataset("features", data_dir=tmp_path)
    np.testing.assert_array_equal(
        data.splits["validation"].examples, vectors(["a", "b"], 1)["x"].astype(np.float32)
    )
    (tmp_path / "extra.npz").touch()
    with one_line("extra.npz is no split", tmp_path):
        dataset("features", data_dir=tmp_path)
    (tmp_path / "extra.npz").rename(tmp_path / "valid.npz")
    with one_line("VAL.NPZ and valid.npz are both the split 'validation'", tmp_path):
        dataset("features", data_dir=tmp_path)
    (tmp_path / "valid.npz").unlink()
    np.savez(tmp_path / "Test.npz", split=np.array(["test", "train"]), **vectors(["a", "b"]))
    with one_line("its array split says 'train'", tmp_path / "Test.npz"):
        dataset("features", data_dir=tmp_path)
    np.savez(tmp_path / "Test.npz", x=np.zeros((2, 5)), y=np.arange(2))
    with one_line("x differs from that of train.npz", "(5,)", "(4,)", tmp_path / "Test.npz"):
        dataset("features", data_dir=tmp_path)
    (tmp_path / "Test.npz").unlink()
    with one_line("no test.npz", tmp_path):
        dataset("features", data_dir=tmp_path)


def test_classes_that_a_split_file_leaves_out_are_noted(tmp_path):
    np.savez(tmp_path / "all.npz", **vectors(["a", "b", "c", "d"]))
    (tmp_path / "split.json").write_text(json.dumps({"TRAIN": ["a"], "val": ["b"], "test": ["d"]}))
    info = dataset("features", data_dir=tmp_path, split=tmp_path / "split.json").info
    assert info.classes == {"train": ("a",), "validation": ("b",), "test": ("d",)}
    assert info.notes == ("classes in no split: 1 of 4, 'c' the first",)


def test_array_split_in_any_spelling(tmp_path):
    arrays = vectors(np.repeat([b"cat", b"dog", "é".encode()], 2))
    np.savez(tmp_path / "all.npz", split=np.repeat([b"Meta-Train", b"VALID", b"novel"], 2), **arrays)
    data = dataset("features", data_dir=tmp_path)
    assert data.info.classes == {"train": ("cat",), "validation": ("dog",), "test": ("é",)}
    names = {"x": arrays["x"], "y": np.repeat(["cat", "dog", "é"], 2).astype(">U3")}
    np.savez(tmp_path / "all.npz", split=np.repeat(["train", "val", "test"], 2), **names)
    assert dataset("features", data_dir=tmp_path).info.classes == data.info.classes
    np.savez(tmp_path / "all.npz", split=np.repeat(["train", "val", "unlabeled"], 2), **arrays)
    with one_line("split 'unlabeled' is not understood", tmp_path / "all.npz"):
        dataset("features", data_dir=tmp_path)
    np.savez(tmp_path / "all.npz", Split=np.repeat(["train", "val", "test"], 2), **arrays)
    with one_line("an array 'Split'", tmp_path / "all.npz"):
        dataset("features", data_dir=tmp_path)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text):
    """An .npy file of that header and no data."""
    raw = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw


def beyond(point):
    """Names, one of them with that code point."""
    names = np.array(SPLIT)
    names.view(np.uint32)[1] = point
    return names


SPLIT = np.repeat(["train", "validation", "test"], 2)
X, Y = npy(np.zeros((6, 2))), npy(np.repeat(np.arange(3), 2))
CLAIM = "{'descr': '<f8', 'fortran_order': False, 'shape': %s}"
DAMAGED = {
    "a shape that is no text of Python": {"x.npy": header(CLAIM % "(((("), "y.npy": Y},
    "an open quote": {"x.npy": header("{'descr': '<f8"), "y.npy": Y},
    "a key that cannot be hashed": {"x.npy": header("{[]: 1}"), "y.npy": Y},
    "3.64 TiB in a kilobyte": {"x.npy": header(CLAIM % "(1000000, 500000)"), "y.npy": Y},
    "a shape beyond any size": {"x.npy": header(CLAIM % f"({10**30},)"), "y.npy": Y},
    "deep nesting": {"x.npy": header(CLAIM % ("(" * 3000)), "y.npy": Y},
    "no axes": {"x.npy": npy(np.float64(1)), "y.npy": npy(np.int64(1))},
    "a member that is no array": {"x.npy": b"abc", "y.npy": Y},
    "half a surrogate pair": {"x.npy": X, "y.npy": npy(np.array(["a", "a", "b", "b", "c", "\ud800"]))},
    "names that are no UTF-8": {"x.npy": X, "y.npy": npy(np.array([b"a", b"a", b"b", b"b", b"c", b"\xff"]))},
    "one name twice": {"x.npy": X, "x": X, "y.npy": Y},
    "labels that are floats": {"x.npy": X, "y.npy": npy(np.arange(6.0))},
    "labels of two axes": {"x.npy": X, "y.npy": npy(np.zeros((6, 1), int))},
    "labels of many values each": {"x.npy": X, "y.npy": npy(np.zeros((6, 300, 2), np.float16))},
    "labels that are records": {"x.npy": X, "y.npy": npy(np.zeros(6, [("a" * 5000, "f4")]))},
    "labels of an array in each": {"x.npy": X, "y.npy": npy(np.full(6, "a" * 5000)), "split.npy": npy(SPLIT)},
    "splits of two axes": {"x.npy": X, "y.npy": Y, "split.npy": npy(SPLIT[:, None])},
    "splits that are numbers": {"x.npy": X, "y.npy": Y, "split.npy": npy(np.zeros(6))},
    "splits with a character beyond Unicode": {"x.npy": X, "y.npy": Y, "split.npy": npy(beyond(0x110000))},
    "one that would wrap around": {"x.npy": X, "y.npy": npy(beyond(0x0801F600))},
    "one in the other order of bytes": {"x.npy": X, "y.npy": npy(beyond(0x110000).astype(">U10"))},
    "a header of fewer numbers": {"x.npy": X.replace(b"(6, 2)", b"(6, 1)"), "y.npy": Y},
    "a header of smaller numbers": {"x.npy": X, "y.npy": Y.replace(b"<i8", b"|u1")},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_line_that_names_the_file(tmp_path, name):
    path = write_zip(tmp_path / "all.npz", DAMAGED[name])
    with pytest.raises(DataError) as caught:
        dataset("features", data_dir=path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 400 + len(str(path))


def test_a_member_is_read_to_its_checksum(tmp_path):
    path = tmp_path / "all.npz"
    np.savez(path, **vectors([0, 0, 1, 1, 2, 2]))
    raw = path.read_bytes()
    place = raw.index(b"'shape': (6, 4)")
    path.write_bytes(raw[:place] + b"'shape': (6, 3)" + raw[place + 15 :])
    with one_line("Bad CRC-32", path):
        dataset("features", data_dir=path)
    path.write_bytes(raw[: place + 200] + b"?" + raw[place + 201 :])
    with one_line("Bad CRC-32", path):
        dataset("features", data_dir=path)


def test_a_directory_that_hides_an_array(tmp_path):
    path = tmp_path / "all.npz"
    np.savez(path, split=np.repeat(["train", "val", "test"], 2), **vectors([0, 0, 1, 1, 2, 2]))
    raw = path.read_bytes()
    place = raw.rindex(b"split.npy")
    path.write_bytes(raw[:place] + b"splat.npy" + raw[place + 9 :])
    with one_line("damaged .npz file", "splat.npy", path):
        dataset("features", data_dir=path)


@pytest.mark.parametrize("change", [{"compress_type": 99}, {"compress_type": 14}, {"flag_bits": 1}])
def test_members_of_unknown_methods(tmp_path, change):
    path = tmp_path / "all.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", X)
        archive.writestr("y.npy", Y)
        for field, value in change.items():
            setattr(archive.getinfo("x.npy"), field, value)
    raw = bytearray(path.read_bytes())  # the directory is changed; the member's own header too
    raw[6:8] = int(change.get("flag_bits", 0)).to_bytes(2, "little")
    raw[8:10] = int(change.get("compress_type", 0)).to_bytes(2, "little")
    path.write_bytes(raw)
    with one_line("damaged .npz file", path):
        dataset("features", data_dir=path)


def test_a_small_file_of_large_arrays_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "all.npz"
    np.savez_compressed(path, x=np.zeros((300, 4096), np.uint8), y=np.arange(300))
    assert dataset("features", data_dir=path).info.shape == (4096,)  # small enough, however well packed
    monkeypatch.setattr(features, "_MOST_UNPACKED", 1 << 20)
    with one_line("it unpacks to 1,23", "100 times its size", path):
        dataset("features", data_dir=path)
    np.savez(path, x=np.zeros((300, 4096), np.uint8), y=np.arange(300))
    assert dataset("features", data_dir=path).info.shape == (4096,)
