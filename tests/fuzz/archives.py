"""Damaged archives and folders of data: python -m tests.fuzz.archives --count=1500 --seed=0

They load equal, are refused in a line that names a file, or are loaded with a note; see `tests.fuzz.sound`
for those whose damage no reader can know of. A case is one data set of `tests.fuzz.small_data` with one kind
of damage.
"""

import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from tests.data.source_helpers import encode, noise, write_tree
from tests.fuzz import damage, small_data, sound, verdicts
from tests.fuzz.damage import Files

SECONDS = 60
_NAMES = ("../{}", "/{}", "//{}", "C:\\{}", ".{}", "__MACOSX/{}", "{}.heic", "{}.pog",
    "{}.txt", "{}~", "\u00e9{}", "new\nline{}", "{}.PNG", "a/b/c/{}", "./{}", "x/../{}",
    "\udcff{}", "{}" + 200 * "x" + ".png", " {}")  # fmt: skip


class Damaged(NamedTuple):
    """A tree of files, and the names that something else than a plain file has."""

    files: Files
    odd: dict[str, str] = {}  # noqa: RUF012


Damage = Callable[[Files, np.random.Generator], Damaged]


def main(argv: list[str]) -> int:
    """Try the cases of the command line."""
    return verdicts.main("archives", cases, count=1500, argv=argv)


def cases(
    seed: int, forms: Mapping[str, small_data.Form] = small_data.FORMS
) -> Callable[[int], tuple[str, verdicts.Verdict]]:
    """Make `case(index)`, which takes the `forms` in turn."""
    scratch = tempfile.TemporaryDirectory(prefix="fuzz-archives-", ignore_cleanup_errors=True)
    root = Path(scratch.name)
    undamaged: dict[str, tuple[Files, verdicts.Outcome]] = {}

    def case(index: int) -> tuple[str, verdicts.Verdict]:
        rng = np.random.default_rng([seed, index])
        name = list(forms)[index % len(forms)]
        form, folder = forms[name], root / f"case{index}"
        if name not in undamaged:
            undamaged[name] = form.files(), load(form, write(root / "undamaged", Damaged(form.files())))
            shutil.rmtree(root / "undamaged")
        files, expected = undamaged[name]
        assert expected.kind == "value", f"{name}: {expected}"
        words, damaged = draw(files, rng)
        try:
            outcome = load(form, write(folder, damaged))
            knowable = partial(_reason, files, damaged)
            return f"{name}, {words}", verdicts.of_loading(outcome, expected, folder, knowable)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    case.scratch = scratch  # which lasts as long as the cases
    return case


def load(form: small_data.Form, folder: Path, cache: bool | str = False) -> verdicts.Outcome:
    """Load a folder in a process of its own."""

    def load() -> tuple[str, list[str]]:
        small_data.shrink()
        return form.load(folder, cache)

    return verdicts.in_a_process(load, seconds=SECONDS)


def _reason(files: Files, damaged: Damaged) -> str | None:
    if odd := [f"{name} is a {kind}" for name, kind in damaged.odd.items() if kind != "link"]:
        return odd[0]
    return sound.reason(files, damaged.files)


def write(folder: Path, damaged: Damaged) -> Path:
    """Write a damaged tree."""
    write_tree(folder, damaged.files)
    for name, kind in damaged.odd.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "file of 8 GB":
            with path.open("wb") as file:
                file.truncate(2**33)
        else:
            path.symlink_to({"link to itself": path.name, "link to zeros": "/dev/zero",
                "link to nothing": "/nowhere", "link to its folder": "."}[kind])  # fmt: skip
    return folder


def draw(files: Files, rng: np.random.Generator) -> tuple[str, Damaged]:
    """Draw a damage: of the bytes of a file, of what its format says, or of its place in the tree."""
    victim = list(files)[rng.integers(len(files))]
    if "split.json" in files and rng.random() < 0.5:
        victim = "split.json"
    kind = rng.random()
    if kind < 0.35:
        change = damage.ANY[rng.integers(len(damage.ANY))]
    elif kind < 0.85:
        changes = _by_format(victim)
        change = changes[rng.integers(len(changes))]
    else:
        place = (_odd, _odd, _rename, _delete, _add, _swap)[rng.integers(6)]
        words, damaged = place(files, victim, rng)
        return f"{victim}: {words}", damaged
    words = f"{victim}: {change.__name__.replace('_', ' ').strip()}"
    return words, Damaged({**files, victim: change(files[victim], rng)})


def _by_format(name: str) -> tuple[Callable[[bytes, np.random.Generator], bytes], ...]:
    """List what changes a file by the rules of its format."""
    inside = damage.inside_gzip
    if name.endswith(".tar.gz"):
        content = inside(damage.flip_bit), inside(damage.truncate)
        return damage.lie_in_tar, damage.lie_in_tar, damage.tar_bomb, *content, _tar_members
    if name.endswith(".gz"):
        return inside(damage.lie_in_idx), inside(damage.lie_in_idx), inside(damage.truncate), _idx_bomb
    suffix = PurePosixPath(name).suffix.lower()
    return { ".zip": (damage.lie_in_zip, damage.lie_in_zip, _zip_member, _zip_member,
        _zip_names, _zip_names, _zip_bomb, _zip_method), ".npz": (damage.lie_in_zip,
        _npz_member, _npz_member, _npz_array, _npz_array, _zip_bomb, _zip_method),
        ".png": (damage.lie_in_png, _other_image), ".json": (damage.lie_in_json,),
        ".bin": damage.ANY[:7], ".txt": damage.ANY, }.get(suffix,
        (damage.lie_in_idx,) if "idx" in name else (damage.lie_in_image, _other_image))  # fmt: skip


# Whole members


def _one(members: Files, rng: np.random.Generator) -> str:
    return list(members)[rng.integers(len(members))]


def _zip_member(raw: bytes, rng: np.random.Generator) -> bytes:
    members = damage.zip_members(raw)
    name = _one(members, rng)
    changes = (*damage.ANY, damage.lie_in_png, damage.lie_in_png, damage.lie_in_png, _other_image)
    changed = changes[rng.integers(len(changes))](members[name], rng)
    return damage.zip_bytes({**members, name: changed})


def _zip_names(raw: bytes, rng: np.random.Generator) -> bytes:
    members, choice = damage.zip_members(raw), rng.integers(7)
    name, other = _one(members, rng), _one(members, rng)
    if choice <= 2:
        new = _renamed(name, rng).encode("utf-8", "replace").decode()
        members = {new if key == name else key: value for key, value in members.items()}
    elif choice == 3:
        members[f" {name}"] = members[other]  # the same name twice
    elif choice == 4:
        members = {key: members[other] if key == name else value for key, value in members.items()}
    elif choice == 5:
        del members[name]
    else:
        members[_renamed(name, rng).encode("utf-8", "replace").decode()] = damage.zip_bytes(
            {name: members[name]}
        )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        return damage.zip_bytes(members)


def _renamed(name: str, rng: np.random.Generator) -> str:
    folder, _, last = name.rpartition("/")
    pattern = _NAMES[rng.integers(len(_NAMES))]
    whole = rng.random() < 0.5
    return pattern.format(name) if whole else "/".join(filter(None, (folder, pattern.format(last))))


def _zip_bomb(raw: bytes, rng: np.random.Generator) -> bytes:
    members = damage.zip_members(raw)
    return damage.zip_bomb(members, _one(members, rng))


def _zip_method(raw: bytes, rng: np.random.Generator) -> bytes:
    method = (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[rng.integers(2)]
    packed = damage.zip_bytes(damage.zip_members(raw), method)
    return damage.ANY[rng.integers(len(damage.ANY))](packed, rng) if rng.random() < 0.8 else packed


def _npz_member(raw: bytes, rng: np.random.Generator) -> bytes:
    members = damage.zip_members(raw)
    name = _one(members, rng)
    change = (damage.lie_in_npy, damage.lie_in_npy, damage.flip_bit, damage.truncate, damage.append)[
        rng.integers(5)
    ]
    return damage.zip_bytes({**members, name: change(members[name], rng)})


def _npz_array(raw: bytes, rng: np.random.Generator) -> bytes:
    """Put another array in the place of one: of no axis, of objects, of other types, with NaN."""
    members = damage.zip_members(raw)
    name = _one(members, rng)
    array = np.load(io.BytesIO(members[name]), allow_pickle=False)
    n = len(array)
    others = ( np.float32(1), np.array([object()] * n), array[:, None], array[:-1], array[:0],
        array.astype("S"), np.array(["\udcff"] * n), np.full((n, 3), np.nan), np.full(n, 2**63,
        np.uint64), np.zeros(n, "<M8[s]"), np.zeros(n, [("a", "f4"), ("b", "i4")]),
        np.zeros((n, 2), complex), np.zeros(n, bool), np.zeros(n), np.zeros((n, 4, 4),
        np.uint8), np.array(["a\nb"] * n), np.asfortranarray(np.ones((n, 3, 2))), np.zeros((n,
        0)), np.array([""] * n), np.zeros((n, 300, 2), np.float16), )  # fmt: skip
    return damage.zip_bytes(
        {**members, name: damage.npy_bytes(np.asarray(others[rng.integers(len(others))]))}
    )


def _tar_members(raw: bytes, rng: np.random.Generator) -> bytes:
    import gzip
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(raw))) as archive:
        members = {entry.name: archive.extractfile(entry).read() for entry in archive}
    name, other = _one(members, rng), _one(members, rng)
    choice = rng.integers(4)
    if choice == 0:
        members[f" {name}"] = members[other]
    elif choice == 1:
        del members[name]
    elif choice == 2:
        members = {_renamed(k, rng) if k == name else k: v for k, v in members.items()}
    else:
        members[name] = damage.ANY[rng.integers(len(damage.ANY))](members[name], rng)
    return damage.tar_gz_bytes(
        {name.encode("utf-8", "replace").decode(): raw for name, raw in members.items()}
    )


def _idx_bomb(raw: bytes, rng: np.random.Generator) -> bytes:
    sizes = ((2**32 - 1, 28, 28), (3 * 2**20, 32, 32), (24, 28, 28))[rng.integers(3)]
    return damage.gzip_bomb(b"\0\0\x08\x03" + np.array(sizes, ">u4").tobytes())


def _other_image(raw: bytes, rng: np.random.Generator) -> bytes:
    side = (1, 12, 13, 400)[rng.integers(4)]
    choice = rng.integers(6)
    if choice == 0:
        return encode(
            noise(1, side, side, 3),
            ("PNG", "GIF", "BMP", "TIFF", "JPEG", "PPM", "WEBP", "ICO")[rng.integers(8)],
        )
    if choice == 1:
        return encode(np.zeros((side, side), np.uint16), ("PNG", "TIFF")[rng.integers(2)])
    if choice == 2:
        return b"P5 %d %d 255\n" % (10 ** int(rng.integers(1, 12)), 10 ** int(rng.integers(1, 8))) + raw
    if choice == 3:
        return b"GIF89a\xff\xff\xff\xff\x80\0\0" + raw
    if choice == 4:
        return encode(np.zeros((8000, 8000), np.uint8), "PNG")
    return damage.zip_bytes({"a.png": raw})


# Places in the tree

_KINDS = (
    "pipe",
    "folder",
    "file of 8 GB",
    "link to itself",
    "link to zeros",
    "link to nothing",
    "link to its folder",
)


def _odd(files: Files, victim: str, rng: np.random.Generator) -> tuple[str, Damaged]:
    """Put something else in the place of a file, or beside it."""
    kind = _KINDS[rng.integers(len(_KINDS))]
    if rng.random() < 0.6:
        return kind, Damaged({name: raw for name, raw in files.items() if name != victim}, {victim: kind})
    beside = str(PurePosixPath(victim).with_name(f"more{PurePosixPath(victim).suffix}"))
    return f"a {kind} beside it", Damaged(files, {beside: kind})


def _rename(files: Files, victim: str, rng: np.random.Generator) -> tuple[str, Damaged]:
    new = _renamed(victim, rng).lstrip("/")
    if ".." in PurePosixPath(new).parts or len(PurePosixPath(new).name.encode("utf-8", "replace")) > 255:
        new = f"more/{PurePosixPath(victim).name}"
    return f"renamed {new!r}"[:90], Damaged(
        {new if name == victim else name: raw for name, raw in files.items()}
    )


def _delete(files: Files, victim: str, rng: np.random.Generator) -> tuple[str, Damaged]:
    folder = str(PurePosixPath(victim).parent)
    if rng.random() < 0.4 and folder != ".":
        return "its folder deleted", Damaged(
            {n: raw for n, raw in files.items() if not n.startswith(f"{folder}/")}
        )
    if rng.random() < 0.4 and folder != ".":
        left = {n: raw for n, raw in files.items() if not n.startswith(f"{folder}/")}
        return "its folder emptied", Damaged(left, {folder: "folder"})
    return "deleted", Damaged({name: raw for name, raw in files.items() if name != victim})


def _add(files: Files, victim: str, rng: np.random.Generator) -> tuple[str, Damaged]:
    """Put a file beside another: one that means nothing, an image of another type, one more image."""
    more = {".DS_Store": b"\0", "Thumbs.db": b"\0", "README.txt": b"read me",
        "more.heic": b"\0\0\0\x18ftypheic", "more.avif": b"\0\0\0\x18ftypavif",
        "more.png": small_data.first_picture(), "more.npz": b"PK",
        "more.json": json.dumps({}).encode(), "cifar-10-python.tar.gz": b"\x1f\x8b",
        "._1.png": b"\0\5\x16\7"}  # fmt: skip
    name = list(more)[rng.integers(len(more))]
    place = str(PurePosixPath(victim).with_name(name))
    return f"{name} beside it", Damaged({**files, place: more[name]})


def _swap(files: Files, victim: str, rng: np.random.Generator) -> tuple[str, Damaged]:
    other = _one(files, rng)
    return f"swapped with {other}", Damaged({**files, victim: files[other], other: files[victim]})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
