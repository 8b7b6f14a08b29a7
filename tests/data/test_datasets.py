import inspect
import subprocess
import sys
from importlib import resources

import pytest
from source_helpers import one_line

from jmeta.data.datasets import dataset
from jmeta.data.errors import DataError
from jmeta.data.sources import omniglot
from jmeta.data.sources.authors import LICENSES, PUBLISHED_SPLITS
from jmeta.registry import DATASETS, factory

USUAL_IMAGE_SIZES = {
    "omniglot": 28, "cifar10": 32, "cifar100": 32, "cifar_fs": 32, "fc100": 32, "mini_imagenet": 84,
    "tiered_imagenet": 84, "cub": 84,
}  # fmt: skip


def test_every_data_set_has_a_factory_a_license_and_a_split():
    assert set(LICENSES) == set(DATASETS)
    assert set(PUBLISHED_SPLITS) == set(DATASETS) - {"glyphs", "sinusoid", "folder", "features"}
    assert all(LICENSES.values()) and all(PUBLISHED_SPLITS.values())
    assert tuple(PUBLISHED_SPLITS["omniglot"]) == tuple(omniglot._SPLITS)
    for name, entry in DATASETS.items():
        keywords = inspect.signature(factory("dataset", name)).parameters
        assert set(entry.settings) <= set(keywords)
        if name in PUBLISHED_SPLITS and "image_size" in keywords:
            assert keywords["image_size"].default == USUAL_IMAGE_SIZES[name]
    usual = inspect.signature(factory("dataset", "omniglot")).parameters["split"].default
    assert usual == next(iter(PUBLISHED_SPLITS["omniglot"]))
    for name in ("glyphs", "sinusoid"):
        info = dataset(name).info
        assert info.license == LICENSES[name]
        assert info.split.startswith("procedural")


def test_unknown_names_and_unknown_options():
    with pytest.raises(ValueError, match="no dataset is called 'omniglott'; expected one of omniglot"):
        dataset("omniglott")
    with pytest.raises(ValueError, match="'cifar_fs' has no option 'split'"):
        dataset("cifar_fs", split="lake")
    with pytest.raises(ValueError, match="'glyphs' has no option 'data_dir'"):
        dataset("glyphs", data_dir="/tmp")
    with pytest.raises(ValueError, match="image_size is 0"):
        dataset("omniglot", image_size=0)
    with pytest.raises(ValueError, match="split 'ravi' is not one of vinyals, lake"):
        dataset("omniglot", split="ravi")


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if "data_dir" in entry.settings])
def test_missing_data_are_one_line_and_never_replaced(tmp_path, monkeypatch, name):
    with one_line(tmp_path):
        dataset(name, data_dir=tmp_path)
    monkeypatch.setenv("JMETA_DATA", str(tmp_path / "nowhere"))
    if name not in ("folder", "features"):
        with one_line("JMETA_DATA names a folder that does not exist", tmp_path / "nowhere"):
            dataset(name)


def test_class_lists_are_in_the_package():
    lists = resources.files("jmeta.data.splits")
    assert {path.name for path in lists.iterdir() if path.name.endswith(".json")} == {
        "omniglot_lake.json", "omniglot_vinyals.json", "cifar_fs.json", "fc100.json",
        "mini_imagenet_ravi.json", "mini_imagenet_ravi_images.json", "tiered_imagenet.json", "cub.json",
    }  # fmt: skip
    assert lists.joinpath("README.md").is_file()


def test_the_list_of_data_sets_imports_nothing_heavy():
    heavy = "'PIL', 'tensorflow_datasets', 'flax'"
    code = f"import sys, jmeta.data.datasets; print([name for name in ({heavy}) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_messages_are_one_line():
    assert str(DataError("a\n  b", "where", "do")) == "a b: where; do"
