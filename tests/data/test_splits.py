import json

import pytest

from jmeta.data.splits import canonical_split, published_split, read_lists


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAIN training meta_train meta-train metatrain base background train_set "
         "images_background train_images Train.Classes"),
        ("validation", "val Val valid validation meta_val meta-validation metaval dev valset development"),
        ("test", "test TEST testing meta-test metatest novel novel_classes images_evaluation eval"),
        (None, "trian trainer testudo train2017 test1 meta images set cat trainval unlabeled valley"),
    ],
)  # fmt: skip
def test_spellings_of_splits(split, names):
    assert {name: canonical_split(name) for name in names.split()} == dict.fromkeys(names.split(), split)
    assert canonical_split("") is None
    assert canonical_split(" meta train ") == "train"


@pytest.mark.parametrize("name", ["cifar_fs", "fc100", "cub", "mini_imagenet_ravi", "omniglot_vinyals"])
def test_the_lists_of_the_literature_are_split_files(tmp_path, name):
    from jmeta.data.sources.stated import read_split_file

    path = tmp_path / "split.json"
    path.write_text(json.dumps(read_lists(name)))
    published = published_split(name)
    assert read_split_file(path, [label for labels in published.values() for label in labels]) == published
