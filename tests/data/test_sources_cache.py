import os

import numpy as np
from source_helpers import write_tree

from jmeta.data.sources.cache import cached
from jmeta.data.sources.images import ImageClasses


def test_cache_is_used_until_something_changes(tmp_path):
    source = write_tree(tmp_path / "source", {"a/1.png": b"1"})
    builds = []

    def build():
        builds.append(1)
        return ImageClasses(np.full((1, 2, 2, 1), len(builds), np.uint8), ("a",), (1,), ("note",))

    def load(size=2):
        return cached([source], {"name": "test", "size": size}, build, tmp_path / "cache")

    first, second = load(), load()
    assert len(builds) == 1
    np.testing.assert_array_equal(first.examples, second.examples)
    assert second[1:] == first[1:] == (("a",), (1,), ("note",))
    load(size=3)
    assert len(builds) == 2
    os.utime(source / "a/1.png", ns=(0, 0))
    load()
    assert len(builds) == 3
    for path in (tmp_path / "cache").rglob("examples.npy"):
        path.write_bytes(path.read_bytes()[:100])
    load()
    assert len(builds) == 4
    assert load().examples[0, 0, 0, 0] == 4
    assert not list((tmp_path / "cache").glob(".writing*"))


def test_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    images = ImageClasses(np.zeros((1, 2, 2, 1), np.uint8), ("a",), (1,))
    loaded = cached([blocked], {"name": "test"}, lambda: images, blocked / "cache")
    assert loaded is images
    assert "not cached" in caplog.text
