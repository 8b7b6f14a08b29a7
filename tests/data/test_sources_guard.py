import bz2
import gzip
import lzma
import os
import tokenize
from pathlib import Path

import pytest
from source_helpers import noise, one_line

from jmeta.data.errors import DataError
from jmeta.data.sources.guard import check_plain, read_file, read_json, read_unpacked, reading


@pytest.mark.parametrize(
    "error",
    [NotImplementedError("zip file version 20.0"), tokenize.TokenError("EOF", (1, 0)),
     lzma.LZMAError("corrupt"), TypeError("unhashable"), AssertionError(), KeyError("a"), EOFError(),
     gzip.BadGzipFile("CRC\ncheck"),
     MemoryError("3.64 TiB"), RecursionError(), PermissionError(13, "Permission denied"), StopIteration()],
)  # fmt: skip
def test_everything_a_decoder_raises_becomes_one_line(error):
    with one_line("/a/file"), reading("/a/file"):
        raise error


def test_what_is_no_fault_of_the_data_passes():
    refusal = DataError("refused")
    with pytest.raises(DataError) as caught, reading("file"):
        raise refusal
    assert caught.value is refusal
    with pytest.raises(KeyboardInterrupt), reading("file"):
        raise KeyboardInterrupt


def test_reasons_are_short():
    with pytest.raises(DataError) as caught, reading("file"):
        raise ValueError("long " * 10_000)
    assert len(str(caught.value)) < 500


def test_only_plain_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/dev/zero", tmp_path / "zero")
    for name in ("pipe", "zero", "."):
        for read in (check_plain, read_json, lambda path: read_file(path, 10)):
            with one_line("not a plain file", tmp_path / name):
                read(tmp_path / name)
    with one_line("No such file", tmp_path / "nothing"):
        read_file(tmp_path / "nothing", 10)
    (tmp_path / "plain").write_bytes(b"abc")
    os.symlink(tmp_path / "plain", tmp_path / "link")
    assert read_file(tmp_path / "link", 3) == b"abc"
    with one_line("too large (3 bytes where at most 2 bytes are read)", tmp_path / "link"):
        read_file(tmp_path / "link", 2)


def test_a_size_that_is_stated_wrongly():
    path = Path("/proc/version")
    if not path.exists():
        pytest.skip("no file here states the size 0 and has content")
    assert path.stat().st_size == 0
    assert read_file(path, 4096) == path.read_bytes()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_are_read_to_their_checksum(tmp_path, pack):
    path, content = tmp_path / "packed", noise(0, 3000).tobytes()
    path.write_bytes(pack(content))
    assert read_unpacked(path, 3000) == content
    with one_line("too large", "2,999", path):
        read_unpacked(path, 2999)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with one_line("damaged or truncated", path):
        read_unpacked(path, 3000)
    refused = 0
    for place in range(0, len(whole), 31):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert read_unpacked(path, 3000) == content  # some bits of a format mean nothing
        except DataError:
            refused += 1
    assert refused > len(whole) // 31 - 10


def test_plain_files_are_not_unpacked(tmp_path):
    (tmp_path / "plain").write_bytes(b"content")
    assert read_unpacked(tmp_path / "plain", 7) == b"content"


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "9" * 5000, "\xff"])
def test_json_that_is_damaged(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with one_line("no list", tmp_path / "a.json", "write one"):
        read_json(tmp_path / "a.json", "no list", "write one")


def test_json_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes("\ufeff[1]".encode())
    assert read_json(tmp_path / "a.json") == [1]
