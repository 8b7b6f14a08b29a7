import os
import zipfile

import pytest
from source_helpers import encode, noise, one_line, write_tree, write_zip

from jmeta.data.sources.store import open_store


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
