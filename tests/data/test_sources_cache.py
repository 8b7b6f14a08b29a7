import json
import os
import pwd
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_helpers import write_tree, write_zip

from jmeta.data.sources import cache as cache_module
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


IMAGES = ImageClasses(
    np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2, 1), ("b", "a", "\udcff"), (2, 1, 2), ("a note",)
)


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "source", {"a/1.png": b"1", "b/2.png": b"2"})


def load(source, folder, images=IMAGES):
    """The images of the cache in `folder`, and whether they were built once more."""
    builds = []
    loaded = cached([source], {"name": "test"}, lambda: builds.append(1) or images, folder)
    return loaded, bool(builds)


def assert_same(loaded):
    np.testing.assert_array_equal(loaded.examples, IMAGES.examples)
    assert loaded[1:] == IMAGES[1:]


def entry_of(source, folder):
    load(source, folder)
    (entry,) = folder.iterdir()
    assert not load(source, folder)[1]
    return entry


def rewrite(**changes):
    """A change of some facts of the index and of its checksum with them."""

    def change(entry):
        index = json.loads((entry / "index.json").read_text()) | changes
        name = index.pop("name", entry.name)
        del index["crc32"]
        crc = cache_module._checksum(entry, index, name)
        (entry / "index.json").write_text(json.dumps({**index, "crc32": crc}))

    return change


def edit(old, new):
    """A change of the index without one of its checksum."""

    def change(entry):
        text = (entry / "index.json").read_text()
        assert old in text
        (entry / "index.json").write_text(text.replace(old, new))

    return change


def write_index(text):
    return lambda entry: (entry / "index.json").write_text(text)


def save(array, **options):
    return lambda entry: np.save(entry / "examples.npy", array, **options)


def replace(name, make):
    def change(entry):
        (entry / name).unlink()
        make(entry / name)

    return change


DAMAGE = {
    "an old entry": edit('"crc32"', '"shape"'),
    "no JSON": write_index("{"),
    "deep JSON": write_index("[" * 100_000),
    "a list": write_index("[]"),
    "classes in another order": edit('"b", "a"', '"a", "b"'),
    "counts in another order": edit("[2, 1, 2]", "[1, 2, 2]"),
    "counts as floats": edit("[2, 1, 2]", "[2.0, 1, 2]"),
    "counts of another sum": rewrite(counts=[2, 1, 1]),
    "a negative count": rewrite(counts=[2, 4, -1]),
    "counts that are true": rewrite(counts=[2, True, 2]),
    "counts of text": rewrite(counts="212"),
    "fewer classes": rewrite(classes=["a", "b"]),
    "a class twice": rewrite(classes=["a", "b", "b"]),
    "classes that are numbers": rewrite(classes=[1, 2, 3]),
    "notes that are none": rewrite(notes=None),
    "one more fact": rewrite(more=[]),
    "the index of another entry": rewrite(name="test-0"),
    "other examples": save(IMAGES.examples[::-1]),
    "pickled examples": save(np.array([[[[None]]]] * 5), allow_pickle=True),
    "a zip": lambda entry: write_zip(entry / "examples.npy", {"examples.npy": b""}),
    "no examples": lambda entry: (entry / "examples.npy").unlink(),
    "a pipe as examples": replace("examples.npy", os.mkfifo),
    "a pipe as index": replace("index.json", os.mkfifo),
    "an endless index": replace("index.json", lambda path: path.symlink_to("/dev/zero")),
    "a folder as index": replace("index.json", os.mkdir),
    "a file as entry": lambda entry: (shutil.rmtree(entry), entry.write_text("")),
    "a link to nothing as entry": lambda entry: (shutil.rmtree(entry), entry.symlink_to("/nowhere/at/all")),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_entry_is_made_again(tmp_path, source, name, caplog):
    entry = entry_of(source, tmp_path / "cache")
    DAMAGE[name](entry)
    loaded, built = load(source, tmp_path / "cache")
    assert built
    assert_same(loaded)
    loaded, built = load(source, tmp_path / "cache")
    assert not built and not caplog.text
    assert_same(loaded)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["examples.npy", "index.json"]), st.integers(0, 10**6), st.integers(1, 255), st.booleans()
)
def test_random_damage_changes_nothing(tmp_path, source, name, place, bits, truncated):
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    path = entry_of(source, tmp_path / "cache") / name
    raw = bytearray(path.read_bytes())
    place %= len(raw)
    raw[place] ^= bits
    path.write_bytes(raw[:place] if truncated else raw)
    assert_same(load(source, tmp_path / "cache")[0])


def test_examples_of_another_size_are_not_read(tmp_path, source, monkeypatch):
    examples = entry_of(source, tmp_path / "cache") / "examples.npy"
    os.truncate(examples, 2**33)
    sizes, checksum = [], cache_module._checksum

    def record(entry, *rest):
        sizes.append((entry / "examples.npy").stat().st_size)
        return checksum(entry, *rest)

    monkeypatch.setattr(cache_module, "_checksum", record)
    loaded, built = load(source, tmp_path / "cache")
    assert built and sizes and max(sizes) < 1000
    assert_same(loaded)


def test_an_entry_is_not_used_for_data_that_would_not_load_any_more(tmp_path, source):
    entry_of(source, tmp_path / "cache")
    (source / "c").mkdir()  # an empty class folder
    assert load(source, tmp_path / "cache")[1]
    (source / "c").rmdir()
    assert not load(source, tmp_path / "cache")[1]
    (source / "a/1.png").chmod(0)
    assert load(source, tmp_path / "cache")[1]


def test_odd_names_and_links_to_nothing_do_not_hinder(tmp_path, source):
    name = os.fsdecode(b"\xff.png")
    (source / "a" / name).write_bytes(b"1")
    entry_of(source, tmp_path / "cache")
    os.symlink("/nowhere/at/all", source / "a/notes.txt")
    assert_same(load(source, tmp_path / "cache")[0])


def no_passwd(*_):
    raise KeyError("uid not found")


def test_without_a_home_folder(tmp_path, source, monkeypatch, caplog):
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_passwd)
    assert_same(load(source, True)[0])
    assert "not cached" in caplog.text and "home folder is not known" in caplog.text
    assert_same(load(source, "~nosuchuser/cache")[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load(source, True)
    assert not load(source, True)[1] and list((tmp_path / "xdg/jmeta").iterdir())


def test_a_relative_cache_home_is_ignored(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load(source, True)
    load(source, "~/own")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "source"]
    assert (tmp_path / "home/.cache/jmeta").is_dir() and (tmp_path / "home/own").is_dir()


def test_a_disk_that_is_full(tmp_path, source, monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    assert_same(load(source, tmp_path / "cache")[0])
    assert "not cached: [Errno 28] No space left on device" in caplog.text
    assert not list((tmp_path / "cache").iterdir())
