import io
import json
import os

import jax
import numpy as np
import pytest
from PIL import Image
from source_helpers import encode, noise, one_line, write_tree, write_zip

from jmeta.data.batches import full_batches
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
    assert from_folder(tmp_path / "pets", 4, color="gray").examples.shape == (6, 4, 4, 1)


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
        ({"train": ["a"], "test": ["b"]}, "lacks a split, 'validation'"),
        (["a"], "has no splits"),
    ):
        path.write_text(json.dumps(broken))
        with one_line(message, path):
            dataset("folder", data_dir=tmp_path / "data", split=path, cache=False)
    path.write_text("{")
    with one_line("cannot read the split file", path):
        dataset("folder", data_dir=tmp_path / "data", split=path, cache=False)


def test_classes_that_a_split_file_leaves_out_are_noted(tmp_path, monkeypatch):
    write_tree(tmp_path / "data", class_folders("abcd"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "split.json").write_bytes(b'\xef\xbb\xbf{"Train": ["a"], "val": ["d"], "meta-test": ["c"]}')
    data = dataset("folder", data_dir="~/data", split="~/split.json", cache=False)
    assert data.info.classes == {"train": ("a",), "validation": ("d",), "test": ("c",)}
    assert data.info.notes == ("classes in no split: 1 of 4, 'b' the first",)
    assert data.info.split == "the file split.json"


@pytest.mark.parametrize("top", ["", "photos/", "photos/2024/"])
@pytest.mark.parametrize("store", [write_tree, write_zip])
@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "VALID", "meta_test"),
                                   ("base", "dev", "novel")])  # fmt: skip
def test_folders_of_splits_in_every_spelling(tmp_path, store, names, top):
    train, validation, test = names
    nested = {
        **class_folders("ab", 1, prefix=f"{top}{train}/"),
        **class_folders("c", 1, prefix=f"{top}{validation}/"),
        **class_folders(("train",), 1, prefix=f"{top}{test}/"),
    }
    data = dataset("folder", data_dir=store(tmp_path / "data", nested), cache=False)
    assert data.info.split == "the folders"
    assert data.info.classes == {
        "train": (f"{train}/a", f"{train}/b"),
        "validation": (f"{validation}/c",),
        "test": (f"{test}/train",),
    }


def test_a_class_named_train_among_classes(tmp_path):
    tree = write_tree(tmp_path / "vehicles", class_folders(("train", "cat", "dog")))
    data = dataset("folder", data_dir=tree, cache=False)
    assert data.info.split.startswith("by seed")
    assert sorted(name for names in data.info.classes.values() for name in names) == ["cat", "dog", "train"]
    assert data.info.notes == ("folder 'train' has images, not class folders: it is a class",)


@pytest.mark.parametrize("files, message", [
    (("train/a", "val/b", "test/c", "d"), "class 'd' lies beside the folder 'test' of a split"),
    (("train/a", "val/b", "test/c", "more/d"), "class 'more/d' lies beside the folder 'test' of a split"),
    (("trian/a", "val/b", "test/c"), "class 'trian/a' lies beside the folder 'test' of a split"),
    (("train/a", "val/b", "Valid/c", "test/d"), "folders 'Valid' and 'val' are both 'validation'"),
    (("train/a", "val/b", "test/a"), "class 'a' is in more than one split"),
    (("train/a", "test/b"), "there is a folder 'test' and none for the split 'validation'"),
    (("train/a", "train/b", "train/c"), "there is a folder 'train' and none for the split 'validation'"),
    (("train2017/a", "val2017/b", "x/c"), "folder 'train2017' of 'train2017/a' looks like a split"),
    (("x/train/a", "x/val/b", "y/train/c"), "folder 'train' of 'x/train/a' looks like a split"),
    (("a/train", "a/test", "b/train"), "folder 'a/test' is named after a split and has images"),
    (("train", "val", "test", "cat"), "folder 'test' is named after a split and has images"),
])  # fmt: skip
def test_stated_splits_that_are_not_understood_are_refused(tmp_path, files, message):
    tree = write_tree(tmp_path / "data", class_folders(files, 1))
    with one_line(message, tree):
        dataset("folder", data_dir=tree, cache=False)


def test_a_part_that_lacks_a_class_keeps_the_labels_of_the_others(tmp_path):
    train = from_folder(write_tree(tmp_path / "train", class_folders("abc", 2)))
    part = write_tree(tmp_path / "test", class_folders("ac", 2))
    test = from_folder(part, classes=("a", "b", "c"))
    assert train.counts.tolist() == [2, 2, 2]
    assert test.counts.tolist() == [2, 0, 2]
    assert full_batches(test, size=4).query.y.tolist() == [[0, 0, 2, 2]]
    reordered = from_folder(part, classes=("c", "b", "a"))
    np.testing.assert_array_equal(reordered.examples, test.examples[[2, 3, 0, 1]])
    with one_line("class folder 'c' is not in `classes`", part):
        from_folder(part, classes=("a", "b"))


def photographs():
    """A folder of photographs as people have them: {name: bytes}, and the pixels of each shown."""
    color, gray = noise(0, 12, 16, 3), noise(1, 12, 16)
    clear = np.dstack([color, np.full((12, 16), 255, np.uint8)])
    clear[:6, :, 3] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    Image.fromarray(np.rot90(noise(2, 12, 16, 3)).copy()).save(turned, "PNG", exif=exif)
    files = {
        "Train/cat/color.PNG": encode(color),
        "Train/cat/gray.png": encode(gray),
        "Train/cat/.hidden.png": b"no image",
        "Train/cat/IMG_1.HEIC": b"not read",
        "Train/cat/IMG_2.avif": b"not read",
        "Train/cat/IMG_3.heic": b"not read",
        "Train/cat/notes.txt": b"",
        "Train/dog/turned.Png": turned.getvalue(),
        "valid/bird/clear.png": encode(clear),
        "TEST/fish/photo.jfif": encode(color, "JPEG"),
    }
    over_white = color.copy()
    over_white[:6] = 255
    return files, {
        "train": [color, np.dstack([gray] * 3), noise(2, 12, 16, 3)],
        "validation": [over_white],
        "test": [np.asarray(Image.open(io.BytesIO(files["TEST/fish/photo.jfif"])))],
    }


def test_a_folder_of_photographs_as_people_have_them(tmp_path):
    files, shown = photographs()
    tree = write_tree(tmp_path / "photos", files)
    os.rename(tree / "Train/dog/turned.Png", tmp_path / "elsewhere.png")
    os.symlink(tmp_path / "elsewhere.png", tree / "Train/dog/turned.Png")
    for source in (tree, write_zip(tmp_path / "photos.zip", files)):
        for cache in (str(tmp_path / "cache"), str(tmp_path / "cache")):  # decoded, then read again
            data = dataset("folder", data_dir=source, cache=cache)
            assert data.info.classes == {
                "train": ("Train/cat", "Train/dog"), "validation": ("valid/bird",), "test": ("TEST/fish",),
            }  # fmt: skip
            for split, images in shown.items():
                rows = {row.tobytes() for row in data.splits[split].examples}
                assert rows == {np.ascontiguousarray(image).tobytes() for image in images}
            assert data.info.notes == (
                "1 of 5 images are gray and the others in color: color=auto reads all as RGB",
                "files of types that are not read were left out: 1 .avif, 2 .heic",
            )
    assert dataset("folder", data_dir=tree, color="gray", cache=False).info.shape == (12, 16, 1)
    with pytest.raises(ValueError, match="color='grey'; expected one of auto, rgb, gray"):
        dataset("folder", data_dir=tree, color="grey", cache=False)


def test_from_folder_logs_what_was_left_out(tmp_path, caplog):
    from_folder(write_tree(tmp_path / "pets", {**class_folders("ab"), "a/photo.heic": b""}))
    assert "files of types that are not read were left out: 1 .heic" in caplog.text


def test_folders_that_have_only_images_that_are_not_read(tmp_path):
    unread = {"a/1.heic": b"", "a/2.HEIC": b"", "b/3.jxl": b""}
    with one_line("no image found", "left out: 2 .heic, 1 .jxl", "convert them to PNG or JPEG"):
        from_folder(write_tree(tmp_path / "phone", unread))
    with one_line("class folder 'a' has no image", "left out: 2 .heic", "convert them"):
        from_folder(write_tree(tmp_path / "both", {**unread, "b/1.png": encode(noise(0, 4, 4))}))


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
