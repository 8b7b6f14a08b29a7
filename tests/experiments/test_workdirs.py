"""What an entry point does with its workdir: refusals, refusing disks, and what is left behind."""

import contextlib
import errno
import json
import os
import re
import subprocess
import sys

import pytest

from experiments import flags
from experiments.cli import launch
from experiments.errors import UsageError
from experiments.settings import Experiment
from experiments.workdir import finished_results, run_identity, write_json

FLAGS = flags.pick("steps", "seed", "workdir", "init_from", defaults={"steps": 7})
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def started(capsys):
    """`started(main, *flags)`: the exit status and the lines on standard error of an experiment, after the
    two that every run begins with."""

    def start(main, *arguments):
        with pytest.raises(SystemExit) as caught:
            launch(Experiment("toy", "A toy.", FLAGS, main), ["toy", *map(str, arguments)])
        lines = capsys.readouterr().err.splitlines()
        first = [line for line in lines if re.match(r"experiments.toy: toy, seed \d|.*; loading jax$", line)]
        return caught.value.code, [line for line in lines if line not in first]

    return start


def write(run):
    """A run that has begun."""
    write_json(run.workdir / "config.json", {"identity": run.identity, "steps": 7})
    (run.workdir / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n')
    return 0


def refuse(run):
    raise UsageError("no")


def never(run):
    raise AssertionError("the run was started")


def test_a_refused_command_leaves_no_folder(started, tmp_path):
    workdir = tmp_path / "a" / "b" / "run"
    assert started(refuse, f"--workdir={workdir}") == (2, ["experiments.toy: no"])
    assert not any(tmp_path.iterdir())
    workdir.parent.mkdir(parents=True)
    (workdir.parent / "other").touch()
    started(refuse, f"--workdir={workdir}")
    assert [path.name for path in workdir.parent.iterdir()] == ["other"]
    assert started(write, f"--workdir={workdir}")[0] == 0
    started(refuse, f"--workdir={workdir}")
    assert {path.name for path in workdir.iterdir()} == {"config.json", "metrics.jsonl"}


def test_two_runs_in_one_workdir(started, tmp_path):
    """The second is refused, the first goes on."""
    seen = []

    def main(run):
        seen.append(started(never, f"--workdir={tmp_path}"))
        return write(run)

    assert started(main, f"--workdir={tmp_path}")[0] == 0
    ((status, lines),) = seen
    assert status == 2 and len(lines) == 1
    assert f"{tmp_path} is in use by process {os.getpid()} on " in lines[0]
    assert started(write, f"--workdir={tmp_path}")[0] == 0


def test_another_run_is_refused_before_it_begins(started, tmp_path):
    started(write, f"--workdir={tmp_path}")
    content = (tmp_path / "config.json").read_text()
    status, lines = started(never, f"--workdir={tmp_path}", "--seed=3")
    assert status == 2 and len(lines) == 1 and "holds another run: --seed is 3 now and 0 there" in lines[0]
    assert (tmp_path / "config.json").read_text() == content
    (tmp_path / "metrics.jsonl").write_text("")  # nothing has been learned yet: a corrected flag may follow
    assert started(write, f"--workdir={tmp_path}", "--seed=3")[0] == 0


@pytest.mark.parametrize(
    ("name", "is_folder"),
    [("config.json", True), ("results.json", True), ("eval.npz", True), ("metrics.jsonl", True),
     (".lock", True), ("checkpoints", False), ("tensorboard", False), ("", False)],
)  # fmt: skip
def test_a_folder_in_the_place_of_a_file_or_a_file_in_that_of_a_folder(started, tmp_path, name, is_folder):
    place = tmp_path / "run" / name
    place.parent.mkdir(exist_ok=True)
    place.mkdir() if is_folder else place.touch()
    status, lines = started(never, f"--workdir={tmp_path / 'run'}")
    assert status == 2 and len(lines) == 1
    assert f"{place} is {'no plain' if is_folder else 'a'} file; expected a" in lines[0]


@pytest.mark.parametrize("below", ["file/run", "file/run/deeper", "x" * 300])
def test_a_workdir_that_cannot_be_made(started, tmp_path, below):
    (tmp_path / "file").touch()
    status, lines = started(never, f"--workdir={tmp_path / below}")
    assert status == 2 and len(lines) == 1 and "--workdir=" in lines[0] and "cannot use" in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_read_only_workdir(started, tmp_path, monkeypatch):
    def read_only(path, *arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        status, lines = started(never, f"--workdir={tmp_path}")
    assert status == 2 and lines == [
        f"experiments.toy: --workdir={tmp_path}: cannot write {tmp_path}/.lock (Read-only file system); "
        "make it writable, or give another"
    ]


@pytest.mark.parametrize(
    ("number", "steps", "words"),
    [
        (errno.ENOSPC, [20, 40], "(No space left on device); the checkpoint of step 40 is whole; free"),
        (errno.EDQUOT, [], "(Disk quota exceeded); there is no checkpoint yet; free some room and"),
        (errno.ENOENT, [], "(No such file or directory); there is no checkpoint yet; give the same command"),
        (errno.EISDIR, [2], "(Is a directory); the checkpoint of step 2 is whole; move the folder"),
    ],
)  # fmt: skip
def test_a_disk_that_refuses_is_one_line(started, tmp_path, number, steps, words):
    def main(run):
        for step in steps:
            (run.workdir / "checkpoints" / str(step)).mkdir(parents=True)
        (run.workdir / "checkpoints" / "60.orbax-checkpoint-tmp").mkdir(parents=True)
        raise OSError(number, os.strerror(number), str(run.workdir / "file"))

    status, lines = started(main, f"--workdir={tmp_path}")
    assert status == 2 and len(lines) == 1
    assert f"{tmp_path}/file {words}" in lines[0] and lines[0].endswith("the same command again")


def test_an_error_without_a_text_has_its_name(started, tmp_path):
    def main(run):
        raise TimeoutError

    status, lines = started(main, f"--workdir={tmp_path}")
    assert status == 2 and "experiments.toy: TimeoutError;" in lines[0]


@pytest.mark.parametrize(
    "damage", ["", "[", "[]", "3", "[" * 100_000, '{"steps": 7}', '{"eval": 3, "steps": 7}']
)
def test_damaged_results_are_none(started, tmp_path, damage):
    identity = run_identity(Experiment("toy", "", FLAGS, write), {"steps": 7, "seed": 0, "init_from": None})
    write_json(tmp_path / "config.json", {"identity": identity, "steps": 7})
    write_json(tmp_path / "results.json", {"steps": 7, "eval": {}})
    assert finished_results(tmp_path, identity, 7)
    (tmp_path / "results.json").write_text(damage)
    assert finished_results(tmp_path, identity, 7) is None
    write_json(tmp_path / "results.json", {"steps": 7, "eval": {}})
    (tmp_path / "config.json").write_text(damage)
    assert finished_results(tmp_path, identity, 7) is None


def test_a_json_file_that_cannot_be_written_is_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"steps": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_json(path, {"steps": 2})
    assert json.loads(path.read_text()) == {"steps": 1} and list(tmp_path.iterdir()) == [path]


def in_a_shell(command):
    """Run a line of bash in the root, where `$python` is this one."""
    environment = os.environ | {"python": sys.executable}
    return subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("$python -m experiments.maml --help > /dev/full", 2, "cannot write to standard output (No"),
        ("$python -m experiments.maml --help >&-", 0, ""),
        ("$python -m experiments.learned_optimizers --preset=list | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("$python -m experiments.maml --way=1 2> /dev/full", 2, ""),
        ("$python -m experiments.maml --way=1 2>&-", 2, ""),
        ("$python -OO -m experiments.maml --help > /dev/null", 0, ""),
        ("$python -OO -m experiments.report --help > /dev/null", 0, ""),
        ("$python -m experiments.report --help > /dev/full", 2, "experiments.report: cannot write"),
    ],
)  # fmt: skip
def test_outputs_that_are_full_or_closed(command, status, words):
    done = in_a_shell(command)
    assert done.returncode == status, done.stderr
    assert words in done.stderr and done.stderr.count("\n") == bool(words)


def test_the_order_at_the_end(tmp_path, monkeypatch):
    """Results are there before figures are drawn; a figure that fails, or a signal, costs nothing."""
    import signal

    from experiments.runner import Run
    from experiments.settings import Settings

    run = Run(Settings({}), Experiment("toy", "", FLAGS, write), tmp_path, {}, 0.0)

    def results(steps):
        return {"steps": steps, "eval": {"metrics": {}}}

    def draw(folder, lines):
        assert json.loads((tmp_path / "results.json").read_text()) == results(1)
        os.kill(os.getpid(), signal.SIGTERM)
        raise KeyError("no such curve")

    assert run._conclude(results(1), {}, draw) == 128 + signal.SIGTERM
    assert run._conclude(results(2), {}, lambda folder, lines: None) == 0
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "figures").rmdir()
    (tmp_path / "figures").touch()
    assert run._conclude(results(3), {}, draw) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == results(3)
