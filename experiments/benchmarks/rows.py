"""All rows of a table: every preset whose name matches, each in a workdir of its own, beside the paper.

python -m experiments.benchmarks.rows --experiment=continual --presets='table5_*' --output=runs/table5 \
    --flags='--data_dir=DIR --num_seeds=5' [--max_minutes=110]

What was interrupted goes on and what is finished is read, so that the same command continues. A row that
fails is named and left out. A row that starts from another (its preset's --init_from names that preset, as
for learned_optimizers' Table 3.4) takes the other's workdir under --output, once it is finished: select both,
--presets='table3_*'. A row is played without those of --flags that have no meaning for it.

Ends with the table, and writes rows.json, every row's metrics and the paper's in the paper's unit and
statistic; seconds.json in a row's workdir is what the row's commands took, start-up, validations and test
included, while "seconds" in rows.json are of training alone.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.common import Experiment, Flag, UsageError, launch, parse, shared, write_json

Play = Callable[[str, Path, float | None], int]  # (preset, workdir, minutes that are left) -> exit status


def run(settings: SimpleNamespace) -> int:
    """Play the rows that are left, print the table."""
    experiment = _experiment(settings.experiment)
    names = [name for name in experiment.presets if fnmatch.fnmatch(name, settings.presets)]
    if not names:
        raise UsageError(f"--presets={settings.presets}: none of {experiment.name}'s; see its --preset=list")
    run_one = functools.partial(play, experiment.name, settings.flags)
    status, found = play_all(names, run_one, Path(settings.output), settings.max_minutes)
    if status:
        return status
    rows = {name: row_of(results) for name, results in found.items()}
    for name, row in rows.items():
        print(f"{name:<52}{shown(row['metrics'])}   paper {shown(row['published'])}   {row['seconds']:.0f} s")
    if rows:
        write_json(Path(settings.output) / "rows.json", rows)
    return 0


def _experiment(name: str) -> Experiment:
    try:
        return importlib.import_module(f"experiments.{name}").EXPERIMENT
    except (ImportError, AttributeError):
        raise UsageError(f"--experiment={name}: no such entry point") from None


def play_all(
    presets: Iterable[str], play: Play, output: Path, max_minutes: float | None
) -> tuple[int, dict[str, dict[str, Any]]]:
    """Play presets one after another until the minutes are over, each in a folder of `output`.

    Returns the exit status of a run that a signal stopped, else 0, and the results that there are by then.
    """
    begun, found = time.monotonic(), {}
    for preset in presets:
        left = None if max_minutes is None else max_minutes - (time.monotonic() - begun) / 60
        if left is None or left > 0:
            status = play(preset, output / preset, left)
            if status in (130, 143):  # the same command goes on
                return status, found
            if status:
                print(f"{preset}: failed, exit status {status}", file=sys.stderr)
        results = output / preset / "results.json"
        if results.is_file():
            found[preset] = json.loads(results.read_text())
    return 0, found


def play(experiment: str, flags: str, preset: str, workdir: Path, minutes: float | None) -> int:
    """One run, in a process of its own, and its exit status; its results go to standard error."""
    entry_point = _experiment(experiment)
    given = shlex.split(flags) + ([] if minutes is None else [f"--max_minutes={minutes}"])
    start = entry_point.presets[preset].get("init_from")
    if start in entry_point.presets:
        if not is_finished(workdir.parent / start):
            print(f"{preset}: starts from {start}, which is not finished there", file=sys.stderr)
            return 2
        given = [f"--init_from={workdir.parent / start}", *given]
    own = meant(entry_point, preset, given)
    command = [sys.executable, "-m", f"experiments.{experiment}", f"--preset={preset}", *own]
    finished, begun = is_finished(workdir), time.monotonic()
    status = subprocess.run([*command, f"--workdir={workdir}"], stdout=sys.stderr).returncode
    status = 128 - status if status < 0 else status
    if not finished and status in (0, 130, 143):
        write_json(workdir / "seconds.json", {"seconds": seconds(workdir) + time.monotonic() - begun})
    return status


def meant(experiment: Experiment, preset: str, flags: list[str]) -> list[str]:
    """Those of the flags that have a meaning for a preset; the others are named on standard error."""
    careless = experiment._replace(stray=lambda settings: {})
    stray = experiment.stray(parse(careless, ["", f"--preset={preset}", *flags]))
    kept = []
    for flag in flags:
        name = flag.lstrip("-").partition("=")[0]
        name = name if name in experiment.flags else name.removeprefix("no")
        if name in stray:
            print(f"{preset}: without {flag}, {stray[name]}", file=sys.stderr)
        else:
            kept.append(flag)
    return kept


def is_finished(workdir: Path) -> bool:
    """Whether a run has its results, of all its steps."""
    try:
        planned = json.loads((workdir / "config.json").read_text())["steps"]
        return json.loads((workdir / "results.json").read_text())["steps"] >= planned
    except (OSError, ValueError, KeyError, TypeError):
        return False


def seconds(workdir: Path) -> float:
    """What the commands of a row have taken so far."""
    path = workdir / "seconds.json"
    return json.loads(path.read_text())["seconds"] if path.is_file() else 0.0


def row_of(results: dict[str, Any]) -> dict[str, Any]:
    """What a row of the table says of a run; metrics that are not finite are left out."""
    from jmeta.report.table import metrics_of, summary

    row, metrics = results["published"] or {}, {}
    for name in results["eval"]["metrics"]:
        with contextlib.suppress(ValueError, TypeError):
            metrics[name] = summary(results, name)
    return {
        "steps": results["steps"],
        "metrics": metrics,
        "published": {name: row[name] for name in metrics_of(row)},
        "seconds": results["train"]["seconds"],
    }


def shown(metrics: dict[str, dict[str, float | None]]) -> str:
    """Metrics on a line, each with its deviation over runs where there is one, or else its interval."""
    parts = []
    for name, summary in metrics.items():
        spread = summary.get("std") or summary.get("ci95")
        parts.append(f"{name} {summary['mean']:.4g}" + (f" +- {spread:.2g}" if spread is not None else ""))
    return ", ".join(parts) or "-"


FLAGS = {
    "experiment": Flag("string", "continual", "the entry point"),
    "presets": Flag("string", "table*", "which of its presets, as a pattern"),
    "output": Flag("string", "runs/rows", "folder of the runs and the table"),
    "flags": Flag("string", "", "flags for every run for which they have a meaning"),
} | shared("max_minutes")

EXPERIMENT = Experiment("benchmarks.rows", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
