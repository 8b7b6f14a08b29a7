"""Damage to the bytes of files: at random, and lies in the headers of their formats, with right checksums."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

Files = dict[str, bytes]
_RUN = 2**20
_BOMB = 3 * 2**10  # runs of zeros, 3 GB


# Any bytes


def flip_bit(raw: bytes, rng: np.random.Generator) -> bytes:
    return _flip(raw, rng, 1)


def flip_bits(raw: bytes, rng: np.random.Generator) -> bytes:
    return _flip(raw, rng, int(rng.integers(2, 40)))


def _flip(raw: bytes, rng: np.random.Generator, number: int) -> bytes:
    changed = bytearray(raw)
    for place in rng.integers(0, max(1, 8 * len(raw)), number if raw else 0):
        changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def _span(raw: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(0, len(raw) + 1))
    return start, start + int(rng.integers(1, max(2, min(4096, len(raw)))))


def truncate(raw: bytes, rng: np.random.Generator) -> bytes:
    return raw[: int(rng.integers(0, len(raw) + 1))]


def truncate_a_little(raw: bytes, rng: np.random.Generator) -> bytes:
    return raw[: -int(rng.integers(1, 24))]


def drop_block(raw: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(raw, rng)
    return raw[:start] + raw[stop:]


def duplicate_block(raw: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(raw, rng)
    return raw[:stop] + raw[start:]


def zero_block(raw: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(raw, rng)
    return raw[:start] + bytes(len(raw[start:stop])) + raw[stop:]


def random_block(raw: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(raw, rng)
    return raw[:start] + rng.bytes(len(raw[start:stop])) + raw[stop:]


def insert(raw: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(0, len(raw) + 1))
    return raw[:start] + rng.bytes(int(rng.integers(1, 64))) + raw[start:]


def append(raw: bytes, rng: np.random.Generator) -> bytes:
    return raw + (bytes if rng.random() < 0.5 else rng.bytes)(int(rng.integers(1, 2000)))


def prepend(raw: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(1, 64))) + raw


def replace(raw: bytes, rng: np.random.Generator) -> bytes:
    others = (b"", b"\0", b"<!doctype html><title>403</title>", b"\x80\x04\x95N.",
        b"%!PS-Adobe EPSF\n(x) run\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bytes(5000), rng.bytes(3000), b"PK\x05\x06" + bytes(18), b"\x1f\x8b", b"\0\0\x08\x03",
        b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9", b"[", b"\xef\xbb\xbf")  # fmt: skip
    return others[rng.integers(len(others))]


ANY = (flip_bit, flip_bit, flip_bits, truncate, truncate_a_little, drop_block, duplicate_block, zero_block,
       random_block, insert, append, prepend, replace)  # fmt: skip


# Zip archives

# Offsets and lengths of the fields of the three records of an archive.
_ZIP_FIELDS = {
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x01\x02": ((4, 2), (6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2),
                    (34, 2), (42, 4)),
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}  # fmt: skip


def lie_in_zip(raw: bytes, rng: np.random.Generator) -> bytes:
    """Set a field of a record to another number: a size, an offset, a method, a bit of its flags."""
    signature = list(_ZIP_FIELDS)[rng.integers(3)]
    places = _find(raw, signature)
    if not places:
        return flip_bit(raw, rng)
    offset, length = _ZIP_FIELDS[signature][rng.integers(len(_ZIP_FIELDS[signature]))]
    start = places[rng.integers(len(places))] + offset
    old = int.from_bytes(raw[start : start + length], "little")
    most = 256**length - 1
    values = (0, 1, most, most // 2, old + 1, max(0, old - 1),
        old ^ (1 << int(rng.integers(8 * length))), 12, 14, 93, 99, int(rng.integers(0, most,
        endpoint=True)))  # fmt: skip
    new = int(min(most, values[rng.integers(len(values))]))
    return raw[:start] + new.to_bytes(length, "little") + raw[start + length :]


def _find(raw: bytes, signature: bytes) -> list[int]:
    places, at = [], raw.find(signature)
    while at >= 0:
        places.append(at)
        at = raw.find(signature, at + 1)
    return places


def zip_bytes(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of {name: bytes}; a name may come twice, told apart by blanks before it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, raw in files.items():
            archive.writestr(zipfile.ZipInfo(name.lstrip(" ")), raw, method)
    return buffer.getvalue()


def zip_members(raw: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_bomb(files: Files, victim: str) -> bytes:
    """The archive with a member of 3 GB of zeros in the place of `victim`, a few MB in all."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = bytearray(zip_bytes({**files, victim: b"\0"}, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        info = archive.getinfo(victim)
    deflated = _deflated_zeros()
    start = info.header_offset + 30 + int.from_bytes(raw[info.header_offset + 26 :][:2], "little")
    start += int.from_bytes(raw[info.header_offset + 28 :][:2], "little")
    size, crc = struct.pack("<II", len(deflated), _BOMB * _RUN), b"\0" * 4
    raw[info.header_offset + 14 : info.header_offset + 26] = crc + size
    grown = len(deflated) - info.compress_size
    raw[start : start + info.compress_size] = deflated
    directory = raw.rfind(b"PK\x05\x06")
    at = raw.find(b"PK\x01\x02", start + len(deflated))
    while 0 <= at < directory:
        offset = int.from_bytes(raw[at + 42 : at + 46], "little")
        if offset == info.header_offset:
            raw[at + 16 : at + 28] = crc + size
        elif offset > info.header_offset:
            raw[at + 42 : at + 46] = struct.pack("<I", offset + grown)
        at = raw.find(b"PK\x01\x02", at + 4)
    place = int.from_bytes(raw[directory + 16 : directory + 20], "little")
    raw[directory + 16 : directory + 20] = struct.pack("<I", place + grown)
    return bytes(raw)


def _deflated_zeros() -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    run = compressor.compress(bytes(_RUN)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return run * _BOMB + b"\x03\x00"


# Gzip and tar


def gzip_bomb(start: bytes) -> bytes:
    """A gzip file of `start` and 3 GB of zeros after it; its checksum is wrong."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    head = compressor.compress(start) + compressor.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + head + _deflated_zeros() + bytes(8)


def tar_gz_bytes(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, raw in files.items():
            entry = tarfile.TarInfo(name.lstrip(" "))
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))
    return gzip.compress(buffer.getvalue(), 6, mtime=0)


def lie_in_tar(raw: bytes, rng: np.random.Generator) -> bytes:
    """Change the size, type or name in a header of a .tar.gz, and make the checksums right."""
    tar = bytearray(gzip.decompress(raw))
    headers = [at for at in range(0, len(tar), 512) if tar[at + 257 : at + 262] == b"ustar"]
    start = headers[rng.integers(len(headers))]
    choice = rng.integers(4)
    if choice == 0:
        sizes = (
            b"0",
            b"1",
            b"77777777777",
            b"-1",
            b"zzz",
            b"%o" % rng.integers(2**24),
            b"\x80" + b"\xff" * 10,
        )
        tar[start + 124 : start + 136] = sizes[rng.integers(len(sizes))].rjust(11, b"0")[:11] + b"\0"
    elif choice == 1:
        tar[start + 156] = b"\x00\x001234567xgLKSNVX"[rng.integers(17)]
    elif choice == 2:
        tar[start + rng.integers(100)] = rng.integers(256)
    else:
        tar[start + rng.integers(500)] ^= 1 << int(rng.integers(8))
    tar[start + 148 : start + 156] = b" " * 8
    tar[start + 148 : start + 156] = b"%06o\0 " % sum(tar[start : start + 512])
    return gzip.compress(bytes(tar), 6, mtime=0)


def tar_bomb(raw: bytes, rng: np.random.Generator) -> bytes:
    """A .tar.gz with a member of 3 GB, before the others or after them."""
    tar = gzip.decompress(raw)
    name = ("cifar-10-batches-bin/more.bin", "cifar-10-batches-bin/data_batch_1.bin")[rng.integers(2)]
    entry = tarfile.TarInfo(name)
    entry.size = _BOMB * _RUN
    header = entry.tobuf()
    return gzip_bomb(
        header if rng.random() < 0.5 else tar.rstrip(b"\0") + bytes(-len(tar.rstrip(b"\0")) % 512) + header
    )


# Within compression


def inside_gzip(change: Callable[[bytes, np.random.Generator], bytes]) -> Callable:
    def changed(raw: bytes, rng: np.random.Generator) -> bytes:
        return gzip.compress(change(gzip.decompress(raw), rng), 6, mtime=0)

    changed.__name__ = f"{change.__name__} inside gzip"
    return changed


# idx


def lie_in_idx(raw: bytes, rng: np.random.Generator) -> bytes:
    axes, words = raw[3], list(struct.unpack_from(f">{raw[3]}I", raw, 4))
    body = raw[4 + 4 * axes :]
    choice = rng.integers(6)
    if choice == 0:
        return raw[:2] + bytes([rng.integers(256)]) + raw[3:]
    if choice == 1:
        return raw[:3] + bytes([(0, 1, 2, 4, 255)[rng.integers(5)]]) + raw[4:]
    if choice == 2:
        return raw[: rng.integers(4, 9)]
    if choice == 3:
        words[rng.integers(axes)] = (0, 1, 2**32 - 1, 2**31)[rng.integers(4)]
    if choice == 4:
        words = words[::-1]
    if choice == 5:
        words[0] = max(0, words[0] + int(rng.integers(-2, 3)))
        body = body[: int(np.prod(words))] if rng.random() < 0.5 else body
    return raw[:4] + struct.pack(f">{axes}I", *words) + body


# npy within npz


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def lie_in_npy(raw: bytes, rng: np.random.Generator) -> bytes:
    """Write another shape, type or order into the header of an .npy file."""
    length = int.from_bytes(raw[8:10], "little")
    header, body = raw[10 : 10 + length], raw[10 + length :]
    shapes = (b"()", b"(1000000000000,)", b"((((", b"(-1,)", b"(0,)", b"(2, 2)", b"(1,)",
        b"[3]", b"({}, )", b"('a',)", b"(1e3,)", b"(99999999999999999999,)", b"(4, 1, 1, 4)",
        b"(12,)")  # fmt: skip
    types = (b"'O'", b"'<U999999999'", b"'<f2'", b"'<c8'", b"'|b1'", b"'<M8[s]'",
        b"[('a', '<f8')]", b"'zzz'", b"{}", b"'>f8'", b"'|V8'", b"'|u1'", b"'<i8'", b"(((",
        b"'<f4'")  # fmt: skip
    before = header
    if rng.random() < 0.5:
        start, stop = header.index(b"("), header.rindex(b")") + 1
        header = header[:start] + shapes[rng.integers(len(shapes))] + header[stop:]
    elif rng.random() < 0.8:
        start = header.index(b"'descr': ") + 9
        header = header[:start] + types[rng.integers(len(types))] + header[header.index(b",", start) :]
    elif rng.random() < 0.5:
        header = header.replace(b"False", b"True")
    else:
        header = _flip(header, rng, 2)
    header = header.rstrip() + b"\n" if len(header) > len(before) else header.ljust(length)
    return raw[:8] + len(header).to_bytes(2, "little") + header + body


# PNG


def png_chunks(raw: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 8 <= len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        chunks.append((raw[at + 4 : at + 8], raw[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def png_bytes(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        crc = zlib.crc32(kind + body).to_bytes(4, "big")
        parts.append(len(body).to_bytes(4, "big") + kind + body + crc)
    return b"".join(parts)


def lie_in_png(raw: bytes, rng: np.random.Generator) -> bytes:
    """Change a chunk of a PNG file and make its checksum right: sizes, depth, colors, much text, no end."""
    if not raw.startswith(b"\x89PNG"):
        return lie_in_image(raw, rng)
    chunks = png_chunks(raw)
    header = bytearray(chunks[0][1])
    choice = rng.integers(7)
    if choice == 0:
        sides = (0, 1, 2**31 - 1, 2**31, 30000, int(rng.integers(2, 40)))
        header[:8] = struct.pack(">II", *(sides[i] for i in rng.integers(len(sides), size=2)))
    elif choice == 1:
        header[8 + rng.integers(5)] = (0, 1, 2, 3, 4, 6, 8, 16, 255)[rng.integers(9)]
    elif choice == 2:
        del chunks[rng.integers(1, len(chunks))]
        return png_bytes(chunks)
    elif choice == 3:
        text = b"a\0\0" + zlib.compress(bytes(2**26), 9)
        kind = (b"zTXt", b"iCCP", b"tEXt")[rng.integers(3)]
        return png_bytes([chunks[0], (kind, text), *chunks[1:]])
    elif choice == 4:
        index = next(i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT")
        pixels = zlib.decompress(chunks[index][1])
        pixels = ANY[rng.integers(len(ANY) - 1)](pixels, rng)
        chunks[index] = (b"IDAT", zlib.compress(pixels))
        return png_bytes(chunks)
    elif choice == 5:
        chunks.insert(int(rng.integers(1, len(chunks))), (b"acTL", struct.pack(">II", 2**31 - 1, 0)))
        return png_bytes(chunks)
    else:
        index = rng.integers(len(chunks))
        kind, body = chunks[index]
        chunks[index] = (kind, ANY[rng.integers(len(ANY))](body, rng))
        return png_bytes(chunks)
    return png_bytes([(b"IHDR", bytes(header)), *chunks[1:]])


def lie_in_image(raw: bytes, rng: np.random.Generator) -> bytes:
    """Write other numbers over the first bytes of an image file, where its sizes are."""
    start = int(rng.integers(0, min(64, len(raw)) or 1))
    values = (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff", b"\x01", b"99999 99999 ", rng.bytes(4))
    value = values[rng.integers(len(values))]
    return raw[:start] + value + raw[start + len(value) :]


# JSON


def lie_in_json(raw: bytes, rng: np.random.Generator) -> bytes:
    text = raw.decode()
    texts = ( "[" * 200_000, '{"train": ' * 100_000, "\ufeff" + text, "{}", "null", "NaN", "3",
        "[]", '"a"', text + text, text.replace('"', "'"), text.replace("[", "[null, ", 1),
        text.replace("[", "[[", 1), text.replace("]", ", ]", 1), text.replace('"train"',
        '"Train"'), text.replace('"validation"', '"val"'), text.replace('"test"', '"tests"'),
        text.replace('"validation"', '"train"'), text.replace("{", '{"test": [], ', 1),
        text.replace("{", '{"extra": ["a"], ', 1), text.replace('"', '"\\ud800', 3),
        "/* split */ " + text, text.replace("[", "[" + "9" * 5000 + ", ", 1), text.replace("[",
        "[1e999, ", 1), text.replace("[", "[true, ", 1), text.replace('"train": [',
        '"train": [], "x": ['), )  # fmt: skip
    index = rng.integers(len(texts) + 1)
    if index == len(texts):
        return text.encode(("utf-16", "utf-32", "utf-8-sig")[rng.integers(3)])
    return texts[index].encode("utf-8")
