"""The first cases of each fuzzer, in processes of their own, and the fuzzers' own judgment."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import damage, small_data, sound, verdicts
from tests.fuzz.verdicts import EXTRA_MEMORY, Outcome

ROOT = Path(__file__).parents[2]
UNDAMAGED = Outcome("value", ["digest", ["a note"]], 10**8, 0.1)
PLACE = Path("/data/set")


def run(module, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{module}", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(record, cases):
    assert record["cases"] == cases
    assert not record["failures"], "\n".join(record["failures"])
    assert set(record["counts"]) <= set(verdicts.GOOD)


def test_archives_load_equal_or_are_refused_in_a_line():
    record = run("archives", "--count=68")
    check(record, 68)
    assert record["counts"]["refused"] > 34 and record["counts"]["equal"] > 0


def test_damaged_cache_entries_cost_time_and_nothing_else():
    record = run("caches", "--count=25")
    check(record, 25)
    assert record["counts"] == {"equal": 25}


@pytest.mark.slow
def test_damaged_workdirs_end_with_the_same_numbers_or_a_line(tmp_path):
    check(run("workdirs", "--count=2", JAX_COMPILATION_CACHE_DIR=str(tmp_path)), 2)


@pytest.mark.slow
def test_flag_sets_end_well_or_with_a_line(tmp_path):
    # a stream of each kind, a refusal, and episodes from a folder
    record = run("flag_sets", "--first=16", "--count=4", JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    check(record, 4)
    assert record["counts"] == {"traced": 3, "refused": 1}


CASES = """
import sys, time
from pathlib import Path
from tests.fuzz.verdicts import in_a_process, of_loading
def refuse(): raise type("DataError", (Exception,), {})("damaged: " + str(place))
place = Path("/data/set")
undamaged = in_a_process(lambda: ("a", []), seconds=9)
cases = {
    "equal": lambda: ("a", []),
    "noted": lambda: ("b", ["1 image is left out"]),
    "silent difference": lambda: ("b", []),
    "refused": refuse,
    "traceback": lambda: {}["x"],
    "hang": lambda: time.sleep(60),
    "memory": lambda: len(b"x" * (9 * 2**27)),
}
for kind, case in cases.items():
    outcome = in_a_process(case, seconds=1 if kind == "hang" else 60)
    verdict = of_loading(outcome, undamaged, place, lambda: "its checksum")
    assert verdict.kind == kind, (kind, verdict)
"""


def test_each_fault_is_seen_for_what_it_is():
    done = subprocess.run(
        [sys.executable, "-c", CASES], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("outcome", "reason", "kind"),
    [
        (UNDAMAGED, None, "equal"),
        (UNDAMAGED._replace(value=["other", ["a note"]]), None, "not knowable"),
        (UNDAMAGED._replace(value=["other", ["a note"]]), "its checksum", "silent difference"),
        (UNDAMAGED._replace(value=["other", ["a note", "another"]]), "its checksum", "noted"),
        (UNDAMAGED._replace(kind="refused", value=f"damaged: {PLACE}/a.zip"), None, "refused"),
        (UNDAMAGED._replace(kind="refused", value="damaged"), None, "nameless refusal"),
        (UNDAMAGED._replace(kind="refused", value=f"damaged:\n{PLACE}"), None, "nameless refusal"),
        (UNDAMAGED._replace(kind="killed", value="SIGSEGV"), None, "traceback"),
        (UNDAMAGED._replace(peak=UNDAMAGED.peak + EXTRA_MEMORY + 1), None, "memory"),
    ],
)
def test_verdicts(outcome, reason, kind):
    assert verdicts.of_loading(outcome, UNDAMAGED, PLACE, lambda: reason).kind == kind


PNG = small_data.first_picture()
ZIP = small_data.zip_of_images()["pictures.zip"]
NPZ = small_data.features_of_names()["vectors.npz"]


@pytest.mark.parametrize( ("name", "before", "after", "reason"), [ ("a.png", PNG,
    PNG[:60] + b"\0\1\2" + PNG[63:], "the checksum of chunk"), ("a.png", PNG, PNG[:-12],
    "no end"), ("a.png", PNG, damage.png_bytes(damage.png_chunks(PNG)), None), ("a.bmp",
    b"BM" + bytes(99), b"BM" + bytes(98) + b"\1", None), ("a.zip", ZIP,
    ZIP.replace(b"class1_2.bmp", b"class1_2.bmq", 1), "the checksum of"), ("a.zip", ZIP,
    damage.zip_bytes(dict(list(damage.zip_members(ZIP).items())[1:])), None), ("a.zip", ZIP,
    damage.zip_bytes({**damage.zip_members(ZIP), "../a.png": PNG}), "leads out"), ("a.zip",
    ZIP, damage.zip_bytes({**damage.zip_members(ZIP), "a.heic": b"a"}),
    "an image that was not there"), ("a.npz", NPZ, damage.zip_bytes({**damage.zip_members(NPZ),
    "y.npy": damage.npy_bytes(np.arange(3))}), None), ("a.json", b"{}",
    b'{"train": [], "train": []}', "is there twice"), ("a.json", b"{}",
    b'{"train": ["a"], "val": ["b"], "test": []}', None), ("a-idx1-ubyte", b"",
    b"\0\0\x08\1\0\0\0\2ab", None), ("a-idx1-ubyte", b"", b"\0\0\x08\1\0\0\0\2a",
    "a length that is not the header's"), ], )  # fmt: skip
def test_what_a_reader_can_know(name, before, after, reason):
    said = sound.reason({name: before}, {name: after})
    assert (said is None) == (reason is None) and (reason or "") in (said or "")


def test_bombs_are_small_and_say_three_gigabytes():
    members = damage.zip_members(NPZ)
    bomb = damage.zip_bomb(members, "y.npy")
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive:
        assert archive.getinfo("y.npy").file_size == 3 * 2**30
        assert archive.read("x.npy") == members["x.npy"]
        assert archive.open("y.npy").read(2**20) == bytes(2**20)
    assert len(bomb) < 2**23
