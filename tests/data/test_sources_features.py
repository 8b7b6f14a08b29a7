import json
import pickle

import numpy as np
from source_helpers import one_line

from jmeta.data.datasets import dataset


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
    np.savez(path, x=np.full((6, 2), np.nan), y=arrays["y"])
    with one_line("NaN", path.parent):
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
