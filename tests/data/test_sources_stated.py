import json

import pytest
from source_helpers import one_line

from jmeta.data.errors import DataError
from jmeta.data.sources.stated import divide_by_folders, read_split_file

LISTS = {"train": ["a", "b"], "val": ["c"], "test": ["4"]}
DIVISION = {"train": ("a", "b"), "validation": ("c",), "test": ("4",)}


def read(path, content, classes="abc4"):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_split_file(path, classes)


@pytest.mark.parametrize(
    "content",
    [
        LISTS,
        json.dumps(LISTS).encode("utf-8-sig"),
        json.dumps(LISTS).encode("utf-16"),
        {"meta-test": [4], "VALID": ["c"], "Training": ["a", "b"]},
        {"dataset": "mine", "names": ["a:first"], **LISTS},
    ],
)
def test_split_files_that_are_understood(tmp_path, content):
    assert read(tmp_path / "split.json", content) == DIVISION


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**LISTS, "trian": ["b"]}, "the split file has 'trian', which is no split"),
        ({**LISTS, "validation": ["c"]}, "the split file has 'val' and 'validation', both for the split"),
        (b'{"train": ["a"], "train": ["b"], "val": ["c"], "test": ["4"]}', "'train' and 'train', both"),
        ({**LISTS, "train": ["a", "a"]}, "class 'a' is named twice in split 'train'"),
        ({**LISTS, "test": ["a"]}, "class 'a' is in more than one split"),
        ({**LISTS, "test": ["z"]}, "names 1 classes that are not there, 'z' the first"),
        ({**LISTS, "test": []}, "split 'test' has no class"),
        ({**LISTS, "test": {"4": 1}}, "split 'test' of the split file is no list of classes"),
        ({**LISTS, "test": "4"}, "split 'test' of the split file is no list of classes"),
        ({**LISTS, "test": [True]}, "has True, which is no name"),
        ({"train": ["a"], "val": ["c"]}, "lacks a split, 'test'"),
        (b"null", "has no splits"),
        (b"[" * 100_000, "cannot read the split file"),
        (b"", "cannot read the split file"),
        (b"\xff\xfe\xfa", "cannot read the split file"),
    ],
)
def test_split_files_that_are_refused(tmp_path, content, message):
    with one_line(message, tmp_path / "split.json"):
        read(tmp_path / "split.json", content)


@pytest.mark.parametrize(
    "content",
    [
        {**LISTS, "k" * 9000: ["b"]},
        {**LISTS, "train": ["z" * 9000]},
        {**LISTS, "train": [["z" * 9000] * 9000]},
        {**LISTS, "train": [{"z": [[[["z" * 9000]]]] * 9000}]},
        {**LISTS, "train": ["a"] * 2 + ["z" * 9000]},
    ],
)
def test_long_values_are_shortened_in_messages(tmp_path, content):
    with pytest.raises(DataError) as caught:
        read(tmp_path / "split.json", content, ["a", "b", "c", "4", "c" * 9000])
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_split_files_that_cannot_be_read(tmp_path):
    with one_line("cannot read", tmp_path / "missing.json"):
        read_split_file(tmp_path / "missing.json", "ab")
    with one_line("home folder is not known", "~nobody-of-this-name"):
        read_split_file("~nobody-of-this-name/split.json", "ab")


def test_folders_that_state_no_split(tmp_path):
    for classes in (["a", "b"], ["Greek/alpha", "Latin/a"], ["Greek/train", "Latin/a"], ["train", "cat"]):
        assert divide_by_folders(classes, tmp_path) is None
