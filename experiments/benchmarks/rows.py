"""All rows of a table: every preset whose name matches, each in a workdir of its own, beside the paper.

python -m experiments.benchmarks.rows --experiment=continual --presets='table5_*' --output=runs/table5 \
    --flags='--data_dir=DIR --num_seeds=5' [--max_minutes=110]

What was interrupted goes on and what is finished is read, so that the same command continues. A row that
fails is named and left out. Ends with the table, and writes rows.json, every row's metrics and the paper's.
"""

from __future__ import annotations

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

from experiments.common import Experiment, Flag, UsageError, launch, shared, write_json

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
    command = [sys.executable, "-m", f"experiments.{experiment}", f"--preset={preset}", *shlex.split(flags)]
    command.append(f"--workdir={workdir}")
    if minutes is not None:
        command.append(f"--max_minutes={minutes}")
    status = subprocess.run(command, stdout=sys.stderr).returncode
    return 128 - status if status < 0 else status


def row_of(results: dict[str, Any]) -> dict[str, Any]:
    """What a row of the table says of a run."""
    from jmeta.report.table import metrics_of

    row = results["published"] or {}
    return {
        "steps": results["steps"],
        "metrics": results["eval"]["metrics"],
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
    "flags": Flag("string", "", "flags for every run"),
} | shared("max_minutes")

if __name__ == "__main__":
    launch(Experiment("benchmarks.rows", __doc__ or "", FLAGS, {}, run))
