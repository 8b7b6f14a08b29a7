"""Damaged entries of the cache of decoded images: python -m tests.fuzz.caches --count=400 --seed=0

The data are whole, so that every case loads the same arrays, twice: a damaged entry costs time and nothing
else.
"""

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.data.source_helpers import write_tree
from tests.fuzz import damage, small_data, verdicts
from tests.fuzz.archives import Damaged, load, write
from tests.fuzz.damage import Files

FORMS = ("omniglot zips", "omniglot folders", "folder", "folder with splits", "mini_imagenet folders")


def main(argv: list[str]) -> int:
    """Try the cases of the command line."""
    return verdicts.main("caches", cases, count=400, argv=argv)


def cases(seed: int) -> Callable[[int], tuple[str, verdicts.Verdict]]:
    """Make `case(index)`."""
    scratch = tempfile.TemporaryDirectory(prefix="fuzz-caches-", ignore_cleanup_errors=True)
    root = Path(scratch.name)
    whole: dict[str, tuple[Files, verdicts.Outcome]] = {}

    def fill(name: str) -> tuple[Files, verdicts.Outcome]:
        """Load a data set, and read the entry that this leaves."""
        data, cache = root / name / "data", root / name / "cache"
        write_tree(data, small_data.FORMS[name].files())
        outcome = load(small_data.FORMS[name], data, str(cache))
        files = {
            str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()
        }
        assert outcome.kind == "value" and len(files) == 2, f"{name}: {outcome}, {list(files)}"
        return files, outcome

    def case(index: int) -> tuple[str, verdicts.Verdict]:
        rng = np.random.default_rng([seed, index])
        name = FORMS[index % len(FORMS)]
        if not whole:
            whole.update({form: fill(form) for form in FORMS})
        files, expected = whole[name]
        other = whole[FORMS[(index + 1) % len(FORMS)]][0]
        words, damaged = draw(files, other, rng)
        data, cache = root / name / "data", root / f"case{index}"
        try:
            write(cache, damaged)
            loads = [judge(load(small_data.FORMS[name], data, str(cache)), expected) for _ in range(2)]
            return f"{name}, {words}", next(
                (verdict for verdict in loads if verdict.kind != "equal"), loads[0]
            )
        finally:
            shutil.rmtree(cache, ignore_errors=True)

    case.scratch = scratch  # which lasts as long as the cases
    return case


def judge(outcome: verdicts.Outcome, expected: verdicts.Outcome) -> verdicts.Verdict:
    """Judge a load of whole data: a refusal is a failure too."""
    if excess := verdicts.of_process(outcome, expected):
        return excess
    if outcome.kind == "refused":
        return verdicts.Verdict("refusal of whole data", outcome.value)
    equal = outcome.value == expected.value
    return verdicts.Verdict("equal") if equal else verdicts.Verdict("silent difference", f"{outcome.value}")


def draw(files: Files, other: Files, rng: np.random.Generator) -> tuple[str, Damaged]:
    """Draw a damage of an entry: of the bytes of a file, of what it says, or of its place."""
    index, examples = sorted(files, key=lambda name: name.endswith(".npy"))
    choice = rng.random()
    if choice < 0.3:
        change = damage.ANY[rng.integers(len(damage.ANY))]
        return f"examples: {change.__name__}", Damaged({**files, examples: change(files[examples], rng)})
    if choice < 0.4:
        change = (damage.lie_in_npy, _other_type, _swap_rows)[rng.integers(3)]
        return f"examples: {change.__name__}", Damaged({**files, examples: change(files[examples], rng)})
    if choice < 0.55:
        change = damage.ANY[rng.integers(len(damage.ANY))]
        return f"index: {change.__name__}", Damaged({**files, index: change(files[index], rng)})
    if choice < 0.8:
        words, text = _other_index(json.loads(files[index]), rng)
        return f"index: {words}", Damaged({**files, index: text})
    if choice < 0.9:
        name = (index, examples)[rng.integers(2)]
        kinds = ("pipe", "folder", "file of 8 GB", "link to itself", "link to zeros", "link to nothing")
        kind = kinds[rng.integers(len(kinds))]
        return f"{Path(name).name}: a {kind}", Damaged(files, {name: kind})
    return _other_place(files, other, (index, examples), rng)


def _other_type(raw: bytes, rng: np.random.Generator) -> bytes:
    array = np.load(io.BytesIO(raw))
    buffer = io.BytesIO()
    choice = rng.integers(6)
    if choice == 0:
        np.savez(buffer, examples=array)
        return buffer.getvalue()
    others = (array.astype(np.int8), array.astype(np.float32), array[:-1], array.reshape(len(array), -1),
              np.asfortranarray(array))  # fmt: skip
    return damage.npy_bytes(others[choice - 1])


def _swap_rows(raw: bytes, rng: np.random.Generator) -> bytes:
    array = np.load(io.BytesIO(raw))
    return damage.npy_bytes(array[rng.permutation(len(array))])


def _other_index(index: dict, rng: np.random.Generator) -> tuple[str, bytes]:
    """Permute a list of the index, or put another value in the place of one."""
    field = list(index)[rng.integers(len(index))]
    value, changed = index[field], dict(index)
    if isinstance(value, list) and len(value) > 1 and rng.random() < 0.5:
        changed[field] = [value[place] for place in rng.permutation(len(value))]
        return f"{field} permuted", json.dumps(changed).encode()
    if isinstance(value, list) and value and rng.random() < 0.5:
        entries = (0, -1, 2**70, 1.5, True, None, "", "a", [], {}, float("nan"), value[-1])
        changed[field] = [entries[rng.integers(len(entries))], *value[1:]]
        return f"{field}[0] = {changed[field][0]!r}", json.dumps(changed).encode()
    values = (None, [], {}, 0, -1, "a", True, 1e300, [[]] * 4, value * 2 if value else 3)
    if rng.random() < 0.2:
        del changed[field]
        return f"no {field}", json.dumps(changed).encode()
    if rng.random() < 0.2:
        texts = (b"[" * 200_000, b"{}", b"null", b"3", b'{"a":' * 90_000, json.dumps([index]).encode(),
                 json.dumps(index).encode("utf-16"), json.dumps({**index, "more": 1}).encode())  # fmt: skip
        text = texts[rng.integers(len(texts))]
        return f"{text[:12]!r}", text
    changed[field] = values[rng.integers(len(values))]
    return f"{field} = {str(changed[field])[:20]}", json.dumps(changed).encode()


def _other_place(
    files: Files, other: Files, names: tuple[str, str], rng: np.random.Generator
) -> tuple[str, Damaged]:
    """Damage an entry as a whole: a file gone or of another entry, a file in the place of a folder."""
    index, examples = names
    theirs_index, theirs_examples = sorted(other, key=lambda name: name.endswith(".npy"))
    folder = os.path.dirname(index)
    choices = (
        ("no index", Damaged({examples: files[examples]})),
        ("no examples", Damaged({index: files[index]})),
        ("an empty entry", Damaged({}, {folder: "folder"})),
        ("a file in its place", Damaged({folder: b"x"})),
        ("a link to nothing in its place", Damaged({}, {folder: "link to nothing"})),
        ("another entry's examples", Damaged({**files, examples: other[theirs_examples]})),
        ("another entry's index", Damaged({**files, index: other[theirs_index]})),
        ("another entry", Damaged({index: other[theirs_index], examples: other[theirs_examples]})),
        ("more files in it", Damaged({**files, f"{folder}/more": b"x", ".writing-1/index.json": b"{"})),
    )
    return choices[rng.integers(len(choices))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
