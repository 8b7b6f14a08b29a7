import pytest
from source_helpers import encode, noise, one_line, write_tree, write_zip

from jmeta.data import splits
from jmeta.data.datasets import dataset
from jmeta.data.sources import class_folders

COUNTS = {"mini_imagenet": (64, 16, 20), "tiered_imagenet": (351, 97, 160), "cub": (100, 50, 50)}
PICTURE = encode(noise(0, 6, 6, 3), "JPEG")


def class_lists(name):
    lists = splits.published_split({"mini_imagenet": "mini_imagenet_ravi"}.get(name, name))
    return {split: [entry.partition(",")[0] for entry in entries] for split, entries in lists.items()}


@pytest.mark.parametrize("name", COUNTS)
def test_published_splits_from_class_folders(tmp_path, monkeypatch, name):
    lists = class_lists(name)
    assert tuple(len(lists[split]) for split in ("train", "validation", "test")) == COUNTS[name]
    assert len({label for labels in lists.values() for label in labels}) == sum(COUNTS[name])
    monkeypatch.setattr(class_folders, "_IMAGES_PER_CLASS", 2)
    few = {label: [1, 2] for labels in lists.values() for label in labels}
    monkeypatch.setattr(class_folders, "image_numbers", lambda: few)
    files = {
        f"{split}/{label}/{row}.jpg": PICTURE
        for split, labels in zip(("Train", "meta-val", "test"), lists.values())
        for label in labels
        for row in range(2)
    }
    write_tree(tmp_path / name, files)
    nested = dataset(name, data_dir=tmp_path, cache=False, image_size=5)
    archive = write_zip(tmp_path / "flat.zip", {file.partition("/")[2]: raw for file, raw in files.items()})
    flat = dataset(name, data_dir=archive, cache=False, image_size=5)
    for data in (nested, flat):
        assert {split: list(labels) for split, labels in data.info.classes.items()} == lists
        assert data.info.shape == (5, 5, 3)
        assert "images where the published data set has" in data.info.notes[0]
        for split, labels in lists.items():
            assert data.splits[split].counts.tolist() == [2] * len(labels)


def test_published_images_are_chosen_from_ilsvrc():
    # sorted by number, not by text: 9 comes before 10
    files = [(f"train/n01532829/n01532829_{index}.JPEG", bytes) for index in (100, 9, 10, 77, 8)]
    chosen = class_folders._published_images("n01532829", files, [2, 4])
    assert [name.rpartition("_")[2] for name, _ in chosen] == ["9.JPEG", "77.JPEG"]
    assert class_folders._published_images("n01532829", files[:2], [2, 4]) == files[:2]
    with one_line("class n01532829 has 5 images", "ILSVRC-2012"):
        class_folders._published_images("n01532829", files, [2, 6])
    with one_line("has 3 images"):
        class_folders._published_images("a", [(f"a/{name}.jpg", bytes) for name in "xyz"], [1, 2])


def test_published_image_numbers():
    numbers = class_folders.image_numbers()
    assert set(numbers) == {label for labels in class_lists("mini_imagenet").values() for label in labels}
    assert all(
        len(set(chosen)) == 600 and min(chosen) >= 1 and max(chosen) <= 1300 for chosen in numbers.values()
    )


def test_missing_and_empty_class_folders(tmp_path):
    with one_line("cub: no data found", "001.Black_footed_Albatross", tmp_path):
        dataset("cub", data_dir=tmp_path)
    (tmp_path / "mini-imagenet-cache-train.pkl").write_bytes(b"")
    with one_line("mini-imagenet-cache-train.pkl is there, but pickles run code"):
        dataset("mini_imagenet", data_dir=tmp_path)
    first = class_lists("cub")["train"][0]
    write_tree(tmp_path / "CUB_200_2011/images", {f"{first}/1.jpg": PICTURE})
    with one_line("cub: 199 of 200 class folders are missing", tmp_path / "CUB_200_2011"):
        dataset("cub", data_dir=tmp_path, cache=False)
    for labels in class_lists("cub").values():
        for label in labels:
            (tmp_path / "CUB_200_2011/images" / label).mkdir(exist_ok=True)
    with one_line("has no image (199 such classes)"):
        dataset("cub", data_dir=tmp_path / "CUB_200_2011", cache=False)
