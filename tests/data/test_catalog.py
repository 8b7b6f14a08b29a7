import subprocess
import sys
from importlib import resources

import pytest
from source_helpers import one_line

from jmeta.data.catalog import CATALOG, dataset
from jmeta.data.errors import DataError


def test_every_entry_has_a_loader_and_a_licence():
    from jmeta.data.catalog import _loader

    for entry in CATALOG.values():
        assert callable(_loader(entry.loader))
        assert entry.licence
        assert entry.splits


def test_unknown_names_and_stray_options():
    with pytest.raises(ValueError, match="unknown dataset 'omniglott'; did you mean 'omniglot'"):
        dataset("omniglott")
    with pytest.raises(ValueError, match="'cifar_fs' has no option 'split'"):
        dataset("cifar_fs", split="lake")
    with pytest.raises(ValueError, match="'glyphs' has no option 'data_dir'"):
        dataset("glyphs", data_dir="/tmp")
    with pytest.raises(ValueError, match="image_size is 0"):
        dataset("omniglot", image_size=0)
    with pytest.raises(ValueError, match="split 'ravi' is none of vinyals, lake"):
        dataset("omniglot", split="ravi")


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if "data_dir" in entry.options])
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


def test_the_catalogue_imports_nothing_heavy():
    heavy = "'PIL', 'tensorflow_datasets', 'flax'"
    code = f"import sys, jmeta.data.catalog; print([name for name in ({heavy}) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_messages_are_one_line():
    assert str(DataError("a\n  b", "where", "do")) == "a b: where; do"
