import json
import os

import jax
import numpy as np
import pytest
from source_helpers import encode, noise, one_line, write_tree, write_zip

from jmeta.data.datasets import dataset
from jmeta.data.sources.folder import from_folder
from jmeta.data.splits import split_by_seed


def class_folders(classes, images=3, prefix="", shape=(8, 8)):
    return {
        f"{prefix}{name}/{row}.png": encode(noise([index, row], *shape))
        for index, name in enumerate(classes)
        for row in range(images)
    }


def test_from_folder_groups_by_class_name(tmp_path):
    files = class_folders(("dog", "cat"), shape=(6, 9, 3))
    tree = from_folder(write_tree(tmp_path / "pets", files))
    archive = from_folder(
        write_zip(tmp_path / "pets.zip", {f"pets/{name}": raw for name, raw in files.items()})
    )
    assert tree.examples.shape == (6, 6, 9, 3)
    assert tree.counts.tolist() == [3, 3]
    assert tree.offsets.tolist() == [0, 3]
    cat = {noise([1, row], 6, 9, 3).tobytes() for row in range(3)}
    assert {row.tobytes() for row in tree.examples[:3]} == cat
    np.testing.assert_array_equal(tree.examples, archive.examples)
    assert from_folder(tmp_path / "pets", 4, color=False).examples.shape == (6, 4, 4, 1)


def test_split_by_seed_is_stable_and_disjoint():
    names = [f"class{index}" for index in range(10)]
    shares = {"train": 0.64, "validation": 0.16, "test": 0.2}
    split = split_by_seed(names, 0, shares)
    assert [len(split[name]) for name in shares] == [6, 2, 2]
    assert sorted(name for part in split.values() for name in part) == sorted(names)
    assert split_by_seed(reversed(names), 0, shares) == split
    assert any(split_by_seed(names, seed, shares) != split for seed in range(1, 4))
    assert split_by_seed("abcdefghij", 0, shares)["test"] == ("f", "h")  # published numbers may rest on it


def test_own_images_to_episodes(tmp_path):
    source = write_tree(tmp_path / "own", class_folders([f"class{index}" for index in range(10)]))
    data = dataset("folder", data_dir=source, cache=str(tmp_path / "cache"))
    assert data.info.split.startswith("by seed 0")
    assert data.info.shape == (8, 8, 1)
    assert [len(data.info.classes[name]) for name in ("train", "validation", "test")] == [6, 2, 2]
    task = jax.jit(data.episodes("train", way=5, shot=1, query=2))(jax.random.key(0))
    assert task.support.x.shape == (5, 8, 8, 1)
    assert task.query.x.shape == (10, 8, 8, 1)
    with pytest.raises(ValueError, match="5 classes, there are 2"):
        data.episodes("test", way=5, shot=1, query=2)
    with pytest.raises(ValueError, match="'val' is not one of train, validation, test"):
        data.episodes("val", way=2, shot=1, query=2)
    other = dataset("folder", data_dir=source, seed=1, cache=str(tmp_path / "cache"))
    assert other.info.classes != data.info.classes


def test_split_file(tmp_path):
    write_tree(tmp_path / "data", class_folders("abcd"))
    lists = {"train": ["d", "b"], "validation": ["a"], "test": ["c"]}
    path = tmp_path / "split.json"
    path.write_text(json.dumps(lists))
    data = dataset("folder", data_dir=tmp_path / "data", split=path, cache=False)
    assert {name: list(classes) for name, classes in data.info.classes.items()} == lists
    expected = {noise([3, row], 8, 8).tobytes() for row in range(3)}
    assert {row.tobytes() for row in data.splits["train"].examples[:3]} == expected
    for broken, message in (
        ({**lists, "test": ["zebra"]}, "names 1 classes that are not there, 'zebra'"),
        ({**lists, "test": ["a"]}, "class 'a' is in more than one split"),
        ({"train": ["a"], "test": ["b"]}, "lacks a split"),
        (["a"], "lacks a split"),
    ):
        path.write_text(json.dumps(broken))
        with one_line(message, path):
            dataset("folder", data_dir=tmp_path / "data", split=path, cache=False)
    path.write_text("{")
    with one_line("cannot read the split file", path):
        dataset("folder", data_dir=tmp_path / "data", split=path, cache=False)


def test_folders_of_splits_and_a_class_named_train(tmp_path):
    nested = {
        **class_folders("ab", prefix="train/"),
        **class_folders("c", prefix="val/"),
        **class_folders(("train",), prefix="test/"),
    }
    data = dataset("folder", data_dir=write_tree(tmp_path / "nested", nested), cache=False)
    assert data.info.classes == {
        "train": ("train/a", "train/b"),
        "validation": ("val/c",),
        "test": ("test/train",),
    }
    plain = class_folders(("train", "test", "val", "cat"))
    data = dataset("folder", data_dir=write_tree(tmp_path / "plain", plain), cache=False)
    assert data.info.split.startswith("by seed")
    assert sorted(name for names in data.info.classes.values() for name in names) == [
        "cat",
        "test",
        "train",
        "val",
    ]
    again = {**nested, **class_folders("a", prefix="test/")}
    with one_line("class 'a' is in more than one split"):
        dataset("folder", data_dir=write_zip(tmp_path / "again.zip", again), cache=False)


def test_unfit_folders(tmp_path):
    with one_line("folder: no folder is named", "data_dir"):
        dataset("folder")
    (tmp_path / "empty").mkdir()
    with one_line("no image found", tmp_path / "empty"):
        from_folder(tmp_path / "empty")
    tree = write_tree(tmp_path / "data", class_folders("ab"))
    with one_line("only 2 classes", "from_folder"):
        dataset("folder", data_dir=tree, cache=False)
    (tree / "c").mkdir()
    with one_line("class folder 'c' has no image", tree):
        from_folder(tree)
    (tree / "c").rmdir()
    (tree / "loose.png").write_bytes(encode(noise(0, 8, 8)))
    with one_line("'loose.png' is in no class folder"):
        from_folder(tree)
    os.remove(tree / "loose.png")
    (tree / "a/0.png").write_bytes(b"garbage")
    with one_line("image does not decode", tree / "a/0.png"):
        from_folder(tree)
