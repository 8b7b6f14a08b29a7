import os
import zipfile

import numpy as np
import pytest
from source_helpers import encode, noise, one_line, write_tree, write_zip

from jmeta.data.sources.cache import cached
from jmeta.data.sources.images import Decoding, ImageClasses, load_images, take
from jmeta.data.sources.store import open_store

KEEP = Decoding(None, None)


def files_of(*raws):
    return {"a": [(f"image {index}", lambda raw=raw: raw) for index, raw in enumerate(raws)]}


def test_folder_and_zip_list_the_same(tmp_path):
    files = {
        "b/1.PNG": b"1",
        "a/2.jpg": b"2",
        "a/.hidden.png": b"",
        "a/notes.txt": b"",
        "__MACOSX/a/2.jpg": b"",
    }
    tree = open_store(write_tree(tmp_path / "tree", files))
    archive = open_store(write_zip(tmp_path / "files.zip", files))
    assert tree.files == archive.files == ("a/2.jpg", "b/1.PNG")
    assert tree.folders == archive.folders == ("a", "b")
    assert [tree.read(name) for name in tree.files] == [archive.read(name) for name in archive.files]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_tree(tmp_path / "elsewhere", {"cat/1.png": b""})
    (tmp_path / "data").mkdir()
    os.symlink(tmp_path / "elsewhere/cat", tmp_path / "data/cat")
    os.symlink(tmp_path / "data", tmp_path / "data/again")
    assert open_store(tmp_path / "data").files == ("cat/1.png",)


def test_names_that_leave_the_archive_are_only_names(tmp_path):
    path = write_zip(tmp_path / "evil.zip", {"../../outside/1.png": encode(noise(0, 4, 4))})
    open_store(path).read("../../outside/1.png")
    assert sorted(tmp_path.iterdir()) == [path]


def test_truncated_zip(tmp_path):
    path = write_zip(tmp_path / "half.zip", {f"a/{i}.png": encode(noise(i, 9, 9)) for i in range(20)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with one_line("damaged or truncated zip archive", path, "fetch it again"):
        open_store(path)


def test_web_page_instead_of_a_zip(tmp_path):
    path = tmp_path / "images.zip"
    path.write_text("<!DOCTYPE html><html>Quota exceeded</html>")
    with one_line("web page, not an archive", path):
        open_store(path)


def test_damaged_member_is_named(tmp_path):
    path = write_zip(tmp_path / "damaged.zip", {"a/1.png": encode(noise(1, 9, 9))})
    raw = bytearray(path.read_bytes())
    raw[70] ^= 255  # in the first file's bytes, behind its header of 30 + 7
    path.write_bytes(raw)
    with one_line("damaged file in the archive", f"{path}!a/1.png"):
        open_store(path).read("a/1.png")


def test_name_twice_in_a_zip(tmp_path):
    path = tmp_path / "twice.zip"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", b"1")
        archive.writestr("a/1.png", b"2")
    with one_line("more than once", "a/1.png", path):
        open_store(path)


@pytest.mark.parametrize("raw", [b"", b"no image", encode(noise(0, 30, 30))[:200]])
def test_undecodable_image_is_named(raw):
    with one_line("image does not decode", "image 1"):
        load_images(files_of(encode(noise(0, 30, 30)), raw), KEEP)


def test_images_of_more_than_8_bits_are_refused():
    with one_line("more than 8 bits", "image 0"):
        load_images(files_of(encode(noise(0, 4, 4).astype(np.uint16))), KEEP)


def test_mixed_sizes_and_channels():
    with one_line("images differ in size (4x4 and 4x5)", "image 0", "image 1", "image size"):
        load_images(files_of(encode(noise(0, 4, 4)), encode(noise(1, 4, 5))), KEEP)
    mixed = files_of(encode(noise(0, 4, 4)), encode(noise(1, 4, 4, 3)))
    with one_line("grey and colour images are mixed", "colour=True"):
        load_images(mixed, KEEP)
    assert load_images(mixed, Decoding(None, True)).examples.shape == (2, 4, 4, 3)
    assert load_images(mixed, Decoding(6, False)).examples.shape == (2, 6, 6, 1)


def test_one_bit_images_have_shades_after_resizing():
    checkers = np.indices((40, 40)).sum(0) // 5 % 2 * 255
    checkers = checkers.astype(np.uint8)
    images = load_images(files_of(encode(checkers, mode="1")), Decoding(28, False, invert=True))
    assert images.examples.shape == (1, 28, 28, 1)
    assert len(np.unique(images.examples)) > 2
    full = load_images(files_of(encode(checkers, mode="1")), Decoding(None, False, invert=True))
    np.testing.assert_array_equal(full.examples[0, ..., 0], 255 - checkers)


def test_rows_do_not_depend_on_the_order_of_the_files():
    raws = [encode(noise(seed, 5, 5)) for seed in range(6)]
    first, second = load_images(files_of(*raws), KEEP), load_images(files_of(*raws[::-1]), KEEP)
    np.testing.assert_array_equal(first.examples, second.examples)
    assert {row.tobytes() for row in first.examples} == {noise(seed, 5, 5).tobytes() for seed in range(6)}


def test_take_by_class():
    rows = np.arange(7, dtype=np.uint8)[:, None, None, None]
    images = ImageClasses(rows, ("a", "b", "c"), (2, 4, 1))
    taken = take(images, ("c", "a"))
    assert taken.examples.ravel().tolist() == [6, 0, 1]
    assert taken.offsets.tolist() == [0, 1]
    assert taken.counts.tolist() == [1, 2]
    together = take(images, ("b", "c"))
    assert together.examples.ravel().tolist() == [2, 3, 4, 5, 6]
    assert np.shares_memory(together.examples, rows)


def test_cache_is_used_until_something_changes(tmp_path):
    source = write_tree(tmp_path / "source", {"a/1.png": b"1"})
    built = []

    def build():
        built.append(1)
        return ImageClasses(np.full((1, 2, 2, 1), len(built), np.uint8), ("a",), (1,), ("note",))

    def load(size=2):
        return cached([source], {"name": "test", "size": size}, build, tmp_path / "cache")

    first, second = load(), load()
    assert len(built) == 1
    np.testing.assert_array_equal(first.examples, second.examples)
    assert second[1:] == first[1:] == (("a",), (1,), ("note",))
    load(size=3)
    assert len(built) == 2
    os.utime(source / "a/1.png", ns=(0, 0))
    load()
    assert len(built) == 3
    for path in (tmp_path / "cache").rglob("examples.npy"):
        path.write_bytes(path.read_bytes()[:100])
    load()
    assert len(built) == 4
    assert load().examples[0, 0, 0, 0] == 4
    assert not list((tmp_path / "cache").glob(".writing*"))


def test_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    images = ImageClasses(np.zeros((1, 2, 2, 1), np.uint8), ("a",), (1,))
    kept = cached([blocked], {"name": "test"}, lambda: images, blocked / "cache")
    assert kept is images
    assert "not kept" in caplog.text
