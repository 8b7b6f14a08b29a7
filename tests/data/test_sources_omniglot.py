import io

import numpy as np
import pytest
from PIL import Image
from source_helpers import encode, noise, one_line, real_data, write_tree, write_zip

from jmeta.data import splits
from jmeta.data.datasets import dataset
from jmeta.data.sources import omniglot
from jmeta.data.sources.omniglot import IMAGE_SETS
from jmeta.data.sources.store import open_store

CLASSES = {
    "train": ("Greek/character01",),
    "validation": ("Greek/character02",),
    "test": ("Tifinagh/character01",),
}


def drawings():
    part_of = {"Greek/character01": 0, "Greek/character02": 0, "Tifinagh/character01": 1}
    seeds = iter(range(100))
    return [
        {
            f"{IMAGE_SETS[part]}/{name}/{drawer}.png": encode(noise(next(seeds), 35, 35), mode="1")
            for name, where in part_of.items()
            if where == part
            for drawer in range(2)
        }
        for part in (0, 1)
    ]


@pytest.fixture
def small(monkeypatch):
    """A published split of three characters with two drawings each."""
    monkeypatch.setitem(omniglot._SPLITS, "vinyals", lambda: CLASSES)
    monkeypatch.setattr(omniglot, "_DRAWERS", 2)


def test_published_splits():
    vinyals, lake = splits.published_split("omniglot_vinyals"), splits.lake_split()
    assert {name: len(classes) for name, classes in vinyals.items()} == {
        "train": 1028, "validation": 172, "test": 423,
    }  # fmt: skip
    assert {name: len(classes) for name, classes in lake.items()} == {
        "train": 868,
        "validation": 96,
        "test": 659,
    }
    every = {name for classes in vinyals.values() for name in classes}
    assert len(every) == 1623 == sum(len(classes) for classes in vinyals.values())
    assert every == {name for classes in lake.values() for name in classes}
    background = splits.published_split("omniglot_lake")["train"]
    assert set(lake["train"]) | set(lake["validation"]) == set(background)
    # published numbers rest on this choice: no version may change it
    assert lake["validation"][:2] == ("Alphabet_of_the_Magi/character03", "Alphabet_of_the_Magi/character12")


def test_zips_folders_and_their_parent(tmp_path, small, monkeypatch):
    archives, trees = tmp_path / "archives" / "omniglot", tmp_path / "trees"
    archives.mkdir(parents=True)
    for part, files in zip(IMAGE_SETS, drawings()):
        write_zip(archives / f"{part}.zip", files)
        write_tree(trees, files)
    loaded = [dataset("omniglot", data_dir=path, cache=False) for path in (archives, archives.parent, trees)]
    monkeypatch.setenv("JMETA_DATA", str(archives.parent))
    loaded.append(dataset("omniglot", cache=False))
    for data in loaded:
        assert data.info.classes == CLASSES
        assert data.info.shape == (28, 28, 1)
        for split in CLASSES:
            np.testing.assert_array_equal(data.splits[split].examples, loaded[0].splits[split].examples)
            assert data.splits[split].counts.tolist() == [2]
    assert "images_background.zip differs" in loaded[0].info.notes[0]
    assert loaded[2].info.notes == ()


def test_missing_damaged_and_incomplete(tmp_path, small, monkeypatch):
    background, evaluation = drawings()
    with one_line("omniglot: no data found", tmp_path, "images_background.zip and images_evaluation.zip"):
        dataset("omniglot", data_dir=tmp_path)
    for part in IMAGE_SETS:
        write_zip(tmp_path / f"{part}.zip", {})
    with one_line("no image found", *(tmp_path / f"{part}.zip" for part in IMAGE_SETS)):
        dataset("omniglot", data_dir=tmp_path, cache=False)
    (tmp_path / "images_evaluation.zip").unlink()
    write_zip(tmp_path / "images_background.zip", background)
    with one_line("images_evaluation.zip is missing", tmp_path):
        dataset("omniglot", data_dir=tmp_path)
    write_zip(tmp_path / "images_evaluation.zip", {})
    with one_line("1 of 3 classes are missing", "Tifinagh/character01"):
        dataset("omniglot", data_dir=tmp_path, cache=False)
    name = next(iter(evaluation))
    write_zip(tmp_path / "images_evaluation.zip", {name: evaluation[name]})
    with one_line("has 1 images, not 2"):
        dataset("omniglot", data_dir=tmp_path, cache=False)
    write_zip(tmp_path / "images_evaluation.zip", {"elsewhere/1.png": evaluation[name]})
    with one_line("not laid out as Omniglot", "elsewhere/1.png"):
        dataset("omniglot", data_dir=tmp_path, cache=False)
    with one_line("data_dir names a folder that does not exist", tmp_path / "nowhere"):
        dataset("omniglot", data_dir=tmp_path / "nowhere")


def test_a_named_folder_without_data_is_not_replaced_by_another(tmp_path, small, monkeypatch):
    for part, files in zip(IMAGE_SETS, drawings()):
        write_zip(tmp_path / f"{part}.zip", files)
    monkeypatch.setenv("JMETA_DATA", str(tmp_path))
    (tmp_path / "empty").mkdir()
    with one_line("no data found", tmp_path / "empty"):
        dataset("omniglot", data_dir=tmp_path / "empty")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
def test_real_omniglot(cache):
    folder = real_data("omniglot")
    vinyals = dataset("omniglot", data_dir=folder, cache=str(cache))
    lake = dataset("omniglot", data_dir=folder, split="lake", cache=str(cache))
    sizes = {split: len(data.counts) for split, data in vinyals.splits.items()}
    assert sizes == {"train": 1028, "validation": 172, "test": 423}
    assert {split: len(data.counts) for split, data in lake.splits.items()} == {
        "train": 868, "validation": 96, "test": 659,
    }  # fmt: skip
    for data in (*vinyals.splits.values(), *lake.splits.values()):
        assert set(data.counts.tolist()) == {20}
        assert data.examples.dtype == np.uint8
        assert data.examples.shape[1:] == (28, 28, 1)
    test = lake.splits["test"]
    assert 10 < test.examples.mean() < 40  # ink is 255 and little
    assert test.examples.max() == 255
    name = lake.info.classes["test"][5]
    store = open_store(folder / "omniglot" / "images_evaluation.zip")
    drawn = set()
    for member in store.files:
        if f"/{name}/" in member:
            with Image.open(io.BytesIO(store.read(member))) as image:
                drawn.add((255 - np.asarray(image.convert("L").resize((28, 28), Image.LANCZOS))).tobytes())
    offset = test.offsets[5]
    assert drawn == {row.tobytes() for row in test.examples[offset : offset + 20]}
