import os
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_helpers import encode, noise, one_line, write_tree, write_zip

from jmeta.data.errors import DataError
from jmeta.data.sources import store as store_module
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
    assert tree.others == archive.others == ("a/notes.txt",)
    assert [tree.read(name) for name in tree.files] == [archive.read(name) for name in archive.files]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_tree(tmp_path / "elsewhere", {"cat/1.png": b""})
    (tmp_path / "data").mkdir()
    os.symlink(tmp_path / "elsewhere/cat", tmp_path / "data/cat")
    os.symlink(tmp_path / "data", tmp_path / "data/again")
    assert open_store(tmp_path / "data").files == ("cat/1.png",)


@pytest.mark.parametrize("name", ["../../outside/1.png", "/outside/1.png", "a/../../1.png", "../empty/"])
def test_names_that_leave_the_archive_are_refused(tmp_path, name):
    path = write_zip(tmp_path / "evil.zip", {"a/1.png": encode(noise(0, 4, 4)), name: b""})
    with one_line(f"the archive has {name!r}, outside of it", path):
        open_store(path)
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


def test_only_plain_files_are_read(tmp_path):
    (tmp_path / "data/a").mkdir(parents=True)
    os.mkfifo(tmp_path / "data/a/pipe.png")
    os.symlink("/dev/zero", tmp_path / "data/a/zero.png")
    store = open_store(tmp_path / "data")
    for name in ("a/pipe.png", "a/zero.png"):
        with one_line("not a plain file", tmp_path / "data" / name):
            store.read(name)
    with one_line("not a plain file", tmp_path / "data/a/pipe.png"):
        open_store(tmp_path / "data/a/pipe.png")


def test_files_too_large_for_an_image_are_refused_by_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "LARGEST_IMAGE", 1000)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(1001))
    write_tree(tmp_path / "tree", {"a/1.png": bytes(1001)})
    for root, where in ((path, f"{path}!a/1.png"), (tmp_path / "tree", tmp_path / "tree/a/1.png")):
        with one_line("too large (1,001 bytes where at most 1,000 bytes are read)", where):
            open_store(root).read("a/1.png")
    raw = path.read_bytes()  # of which the directory lies
    path.write_bytes(raw.replace((1001).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with one_line(f"{path}!a/1.png"):
        open_store(path).read("a/1.png")


def one_member(path, field, value):
    """An archive of one compressed member, of which `field` of its two headers has another value."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", noise(0, 90).tobytes())
    raw = bytearray(path.read_bytes())
    for start, places in ((b"PK\3\4", LOCAL), (b"PK\1\2", CENTRAL)):
        if field in places:
            place = raw.index(start) + places[field]
            raw[place : place + len(value)] = value
    path.write_bytes(raw)
    return path


LOCAL = {"version": 4, "flags": 6, "method": 8, "name": 30}
CENTRAL = {"version": 6, "flags": 8, "method": 10, "name": 46}
HOSTILE = [
    ("version", b"\xff\0"), ("flags", b"\1\0"), ("flags", b"\x20\0"), ("flags", b"\x40\0"),
    ("method", b"\x0c\0"), ("method", b"\x0e\0"), ("method", b"\x63\0"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), HOSTILE)
def test_headers_that_mean_nothing_here(tmp_path, field, value):
    path = one_member(tmp_path / "hostile.zip", field, value)
    with one_line(path):
        open_store(path).read("a/1.png")


def test_a_directory_that_hides_files(tmp_path):
    path = tmp_path / "hidden.zip"
    whole = write_zip(path, {"a/1.png": b"1", "a/2.png": b"2"}).read_bytes()
    for old, new in ((b"a/1.png", b"a/1.pnq"), (b"a/2.png", b"a/.hpng")):
        place = whole.rindex(old)
        path.write_bytes(whole[:place] + new + whole[place + len(old) :])
        with one_line("damaged or truncated zip archive", "differ", path):
            open_store(path)
    place = whole.index(b"PK\1\2") + 32  # the length of the first entry's comment
    path.write_bytes(whole[:place] + (46 + 7).to_bytes(2, "little") + whole[place + 2 :])
    with one_line("1 members where 2 are stated", path):
        open_store(path)
    path.write_bytes(whole + b"\nbytes behind the end")
    assert open_store(path).files == ("a/1.png", "a/2.png")


def test_name_that_is_not_the_utf8_that_it_claims_to_be(tmp_path):
    path = one_member(tmp_path / "hostile.zip", "name", b"\xff\xfe")
    path.write_bytes(one_member(path, "flags", b"\0\x08").read_bytes().replace(b"a/1.png", b"\xff/1.png"))
    with one_line("damaged or truncated zip archive", path):
        open_store(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_damage_is_noticed_or_harmless(tmp_path, place, byte, truncated):
    files = {"a/1.png": noise(0, 90).tobytes(), "b/2.png": bytes(90)}
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    raw = bytearray(path.read_bytes())
    place %= len(raw)
    raw[place] = byte
    path.write_bytes(raw[:place] if truncated else raw)
    try:
        store = open_store(path)
        contents = {name: store.read(name) for name in store.files}
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert contents == files
