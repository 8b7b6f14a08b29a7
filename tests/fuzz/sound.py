"""Reasons why a reader can know that data are damaged, by the checks that their formats have.

Nothing here is of the library under test. Where all changed files pass the checks of their own format, no
reader can know that they were others before: a raw image has no checksum, and a folder no list of its files.
"""

import gzip
import io
import json
import math
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import PurePosixPath

import numpy as np

from tests.fuzz.damage import Files

# Images that people have and a loader may not read: to leave them out without a word is to lose them.
OTHER_IMAGES = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".jfif")


def reason(before: Files, after: Files) -> str | None:
    """Say why a reader can know of the difference of two trees of files, None if none can."""
    for name in sorted(after.keys() - before.keys()):
        if PurePosixPath(name).suffix.lower() in OTHER_IMAGES:
            return f"{name} is an image that was not there"
    for name in sorted(after.keys() & before.keys() | {n for n in after if _suffix(n) in (".zip", ".npz")}):
        if before.get(name) != after[name] and (fault := of_file(name, before.get(name, b""), after[name])):
            return f"{name}: {fault}"
    return None


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def of_file(name: str, before: bytes, after: bytes) -> str | None:
    """Say what is wrong with the bytes of a file by the checks of its format, None if nothing is."""
    checks = {".png": _png, ".npy": _npy, ".json": _json}
    suffix = _suffix(name)
    if ".array_record" in name:
        return "the checksums of its records"
    try:
        if suffix in (".zip", ".npz"):
            return _zip(before, after)
        if suffix == ".gz":
            return _gz(name, before, after)
        return checks[suffix](after) if suffix in checks else _idx(name, after)
    except Exception as error:  # these checks may meet anything
        return f"{type(error).__name__} {str(error)[:80]}"


def _zip(before: bytes, after: bytes) -> str | None:
    with zipfile.ZipFile(io.BytesIO(after)) as archive:
        infos = archive.infolist()
        if any(info.file_size > 2**28 for info in infos):
            return "a member of more than 256 MB"
        if broken := archive.testzip():
            return f"the checksum of {broken}"
        members = {info.filename: archive.read(info) for info in infos}
    if len(members) < len(infos):
        return "a name that is there twice"
    end = after.rfind(b"PK\x05\x06")
    if int.from_bytes(after[end + 10 : end + 12], "little") != len(infos):
        return "the number of members"
    if after.count(b"PK\x03\x04") != len(infos):
        return "a member that the directory does not have"
    if odd := [name for name in members if name.startswith("/") or ".." in PurePosixPath(name).parts]:
        return f"the name {odd[0]!r} leads out of the archive"
    try:
        with zipfile.ZipFile(io.BytesIO(before)) as archive:
            old = {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        old = {}
    return reason(old, members)


def _gz(name: str, before: bytes, after: bytes) -> str | None:
    content = gzip.decompress(after)
    if "tar" not in name:
        return _idx(name, content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        entries = archive.getmembers()
        for entry in entries:
            if entry.isfile() and len(archive.extractfile(entry).read()) != entry.size:
                return f"{entry.name} is cut off"
    if len({entry.name for entry in entries}) < len(entries):
        return "a name that is there twice"
    return None


def _png(raw: bytes) -> str | None:
    if raw[:8] != b"\x89PNG\r\n\x1a\n":
        return (
            "no PNG file"
            if raw[:2] not in (b"\xff\xd8", b"BM", b"GI", b"II", b"MM", b"P5", b"P6", b"RI")
            else None
        )
    at, pixels, kinds = 8, b"", []
    while at < len(raw) and b"IEND" not in kinds:
        size, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        body, crc = raw[at + 8 : at + 8 + size], raw[at + 8 + size : at + 12 + size]
        if zlib.crc32(kind + body).to_bytes(4, "big") != crc:
            return f"the checksum of chunk {kind!r}"
        kinds.append(kind)
        pixels += body if kind == b"IDAT" else b""
        at += 12 + size
    if kinds[-1:] != [b"IEND"]:
        return "no end"
    decompressor = zlib.decompressobj()
    rows = decompressor.decompress(pixels, 2**28)
    if not decompressor.eof:
        return "pixels that are cut off"
    width, height, depth, color, _, _, interlace = np.frombuffer(raw[16:29], ">u4,>u4,u1,u1,u1,u1,u1")[0]
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[int(color)]
    if not interlace and len(rows) != int(height) * (1 + math.ceil(int(width) * channels * int(depth) / 8)):
        return "a number of pixels that is not the header's"
    return None


def _npy(raw: bytes) -> str | None:
    stream = io.BytesIO(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 may have written
        array = np.load(stream, allow_pickle=False)
    return "bytes after its end" if stream.read(1) else (None if array.size else "no element")


def _json(raw: bytes) -> str | None:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if twice := [key for key, number in Counter(key for key, _ in pairs).items() if number > 1]:
            raise ValueError(f"{twice[0]!r} is there twice")
        return dict(pairs)

    lists = json.loads(raw, object_pairs_hook=unique)
    if set(map(str.lower, lists)) - {"train", "val", "valid", "validation", "test"}:
        return f"it has {', '.join(lists)}"
    return None


def _idx(name: str, raw: bytes) -> str | None:
    if "idx" not in name:
        return None
    axes = raw[3]
    words = np.frombuffer(raw[4 : 4 + 4 * axes], ">u4")
    if raw[:3] != b"\0\0\x08" or len(words) != axes:
        return "its header"
    return (
        None if len(raw) == 4 + 4 * axes + math.prod(words.tolist()) else "a length that is not the header's"
    )
