"""Damaged workdirs of runs that are continued: python -m tests.fuzz.workdirs --count=60 --seed=0

A tiny run on sine waves is stopped in the middle, or finished; its workdir is damaged, and the same command
given again. It ends with the numbers of a whole run, or with status 2 and one line that names a file.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz import damage, entry_points, verdicts

SECONDS = 180
FLAGS = (
    "--dataset=sinusoid --shot=5 --query=5 --filters=8 --inner_steps=1 --meta_batch=2 --eval_every=4 "
    "--log_every=2 --checkpoint_every=2 --validation_tasks=4 --eval_tasks=8"
).split()
STEPS, HALF = 8, 4
CLOCKS = ("seconds", "tasks_per_second", "compile_seconds")


def main(argv: list[str]) -> int:
    """Try the cases of the command line."""
    return verdicts.main("workdirs", cases, count=60, argv=argv)


def cases(seed: int) -> Callable[[int], tuple[str, verdicts.Verdict]]:
    """Make `case(index)`."""
    entry_points.import_all()
    scratch = tempfile.TemporaryDirectory(prefix="fuzz-workdirs-", ignore_cleanup_errors=True)
    root = Path(scratch.name)
    root.chmod(0o755)
    whole = _finish(root / "finished", STEPS)
    _finish(root / "half", HALF)
    stopped = shutil.copytree(root / "half", root / "stopped")
    for name in ("results.json", "eval.npz"):
        (stopped / name).unlink()
    right, lines = numbers(whole), log(root / "finished")

    def case(index: int) -> tuple[str, verdicts.Verdict]:
        rng = np.random.default_rng([seed, index])
        stage = ("half", "stopped", "finished")[index % 3]
        workdir = root / f"case{index}"
        shutil.copytree(root / stage, workdir)
        words, user = draw(workdir, rng)
        try:
            outcome = run(workdir, STEPS, user)
            verdict = verdicts.of_process(outcome, whole) if outcome.kind != "raised" else None
            verdict = (
                verdict or entry_points.of_exit(outcome, "maml", workdir) or _compare(outcome, right, words)
            )
            if verdict.kind == "equal" and "metrics.jsonl" not in words and log(workdir) != lines:
                verdict = verdicts.Verdict("silent difference", "metrics.jsonl is not that of a whole run")
            return f"{stage}, {words}", verdict
        finally:
            shutil.rmtree(workdir, ignore_errors=True)
            workdir.unlink(missing_ok=True)

    case.scratch = scratch  # which lasts as long as the cases
    return case


def run(workdir: Path, steps: int, user: int = 0) -> verdicts.Outcome:
    """Give the command of the run."""

    def command() -> None:
        if user:
            os.setgid(user)
            os.setuid(user)
        entry_points.launch("maml", [*FLAGS, f"--steps={steps}", f"--workdir={workdir}"])

    return verdicts.in_a_process(command, seconds=SECONDS, address_space=8 * verdicts.GIGABYTE)


def _finish(workdir: Path, steps: int) -> verdicts.Outcome:
    outcome = run(workdir, steps)
    assert (outcome.kind, outcome.value) == ("exit", 0), outcome
    return outcome


def numbers(outcome: verdicts.Outcome) -> Any:
    """Return the numbers of a run that no clock decides."""
    printed = entry_points.results(outcome)
    return {name: value for name, value in printed.items() if name != "train"}


def log(workdir: Path) -> list[dict[str, Any]]:
    """Return the lines of a log without what a clock says."""
    try:
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return []
    return [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines]


def _compare(outcome: verdicts.Outcome, right: Any, words: str) -> verdicts.Verdict:
    ours = numbers(outcome)
    if ours == right:
        return verdicts.Verdict("equal")
    different = [name for name in right if ours.get(name) != right[name]]
    if words.startswith("results.json") and "finished before" in outcome.printed:
        # It is text without a checksum, and what was printed was read from it.
        return verdicts.Verdict("not knowable", f"{', '.join(different)} of results.json")
    return verdicts.Verdict("silent difference", f"{', '.join(different)}: {str(ours)[:200]}")


def draw(workdir: Path, rng: np.random.Generator) -> tuple[str, int]:
    """Damage a workdir; return what was done, and the user who continues it if that is another one."""
    files = sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file())
    folders = sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_dir())
    top = [name for name in files if "/" not in name]
    name = top[rng.integers(len(top))] if rng.random() < 0.5 else files[rng.integers(len(files))]
    choice = rng.random()
    if choice < 0.45:
        change = damage.ANY[rng.integers(len(damage.ANY))]
        (workdir / name).write_bytes(change((workdir / name).read_bytes(), rng))
        return f"{name}: {change.__name__}", 0
    if choice < 0.6:
        return _other_text(workdir, rng), 0
    if choice < 0.75:
        return _in_place(workdir, name, rng), 0
    if choice < 0.9:
        return _of_folder(workdir, folders[rng.integers(len(folders))], rng), 0
    return _whole(workdir, rng)


def _other_text(workdir: Path, rng: np.random.Generator) -> str:
    """Put another JSON value into a file of JSON, or between the lines of the log."""
    texts = ("{}", "[]", "null", "3", '"a"', "NaN", "[" * 200_000, '{"steps": 8}',
        '{"step": "8"}', '{"step": 1e999}', '{"identity": {}}',
        '{"identity": null, "steps": 8}', "\ufeff{}", "\0" * 4096, '{"step": 4, "split": 3}',
        '{"step": -1, "split": "train", "loss": null}', '{"metrics": {}}')  # fmt: skip
    text = texts[rng.integers(len(texts))]
    names = [str(path.relative_to(workdir)) for path in sorted(workdir.rglob("*.json")) if path.is_file()]
    names += [str(path.relative_to(workdir)) for path in sorted(workdir.glob("checkpoints/*/metrics/*"))]
    name = ("metrics.jsonl", *names)[rng.integers(len(names) + 1)]
    path = workdir / name
    if name == "metrics.jsonl":
        lines = path.read_text().splitlines()
        lines.insert(int(rng.integers(len(lines) + 1)), text)
        text = "\n".join(lines) + "\n"
    path.write_text(text)
    return f"{name}: {text[:40]!r}"


def _in_place(workdir: Path, name: str, rng: np.random.Generator) -> str:
    """Put something else in the place of a file."""
    path = workdir / name
    path.unlink()
    kind = ("nothing", "folder", "pipe", "link to nothing", "link to zeros", "file of 8 GB")[rng.integers(6)]
    if kind == "folder":
        path.mkdir()
        (path / "a").write_text("a")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind.startswith("link"):
        path.symlink_to("/nowhere" if kind.endswith("nothing") else "/dev/zero")
    elif kind == "file of 8 GB":
        with path.open("wb") as file:
            file.truncate(2**33)
    return f"{name}: {kind} in its place"


def _of_folder(workdir: Path, name: str, rng: np.random.Generator) -> str:
    """Delete a folder, empty it, or put a file in its place."""
    shutil.rmtree(workdir / name)
    kind = ("gone", "empty", "a file in its place")[rng.integers(3)]
    if kind == "empty":
        (workdir / name).mkdir()
    elif kind != "gone":
        (workdir / name).write_text("a")
    return f"{name}/: {kind}"


def _whole(workdir: Path, rng: np.random.Generator) -> tuple[str, int]:
    """Damage the workdir as a whole: read-only, another's files in it, older or newer checkpoints."""
    newest = max((int(path.name) for path in workdir.glob("checkpoints/[0-9]*")), default=0)
    choice = rng.integers(6)
    if choice <= 1:
        if os.geteuid():
            os.chmod(workdir, 0o555)
        return "read-only", 0 if os.geteuid() else 65534
    if choice == 2:
        (workdir / "checkpoints" / f"{newest + 2}").mkdir()
        return "an empty later checkpoint", 0
    if choice == 3:
        shutil.copytree(workdir / "checkpoints" / str(newest), workdir / "checkpoints" / f"{newest + 2}")
        return "a later checkpoint that is a copy", 0
    if choice == 4:
        shutil.rmtree(workdir)
        workdir.write_text("a")
        return "a file in its place", 0
    (workdir / "checkpoints" / f"{newest + 1}.orbax-checkpoint-tmp").mkdir()
    (workdir / "checkpoints" / "notes").mkdir()
    (workdir / ".lock").write_text("process 1")
    return "rests of a killed process", 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
