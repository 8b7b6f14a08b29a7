"""All rows of a table: every preset whose name matches, each in a workdir of its own, beside the paper.

python -m experiments.benchmarks.rows --experiment=continual --presets='table5_*' --output=runs/table5 \
    --flags='--data_dir=DIR --num_seeds=5' [--max_minutes=110]

What was interrupted goes on and what is finished is read, so that the same command continues. A row that
fails is named and left out. Ends with the table, and writes rows.json, every row's metrics and the paper's.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.common import Experiment, Flag, UsageError, launch, shared, write_json


def run(settings: SimpleNamespace) -> int:
    """Play the rows that are left, print the table."""
    experiment = _experiment(settings.experiment)
    names = [name for name in experiment.presets if fnmatch.fnmatch(name, settings.presets)]
    if not names:
        raise UsageError(f"--presets={settings.presets}: none of {experiment.name}'s; see its --preset=list")
    begun, rows = time.monotonic(), {}
    for name in names:
        workdir = Path(settings.output) / name
        minutes = None
        if settings.max_minutes is not None:
            minutes = settings.max_minutes - (time.monotonic() - begun) / 60
        if minutes is None or minutes > 0:
            status = play(experiment.name, name, workdir, settings.flags, minutes)
            if status in (130, 143):  # stopped: the same command goes on
                return status
            if status:
                print(f"{name}: failed, exit status {status}", file=sys.stderr)
        results = workdir / "results.json"
        if results.is_file():
            rows[name] = row_of(json.loads(results.read_text()))
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


def play(experiment: str, preset: str, workdir: Path, flags: str, minutes: float | None) -> int:
    """One run, in a process of its own, and its exit status; its results go to standard error."""
    command = [sys.executable, "-m", f"experiments.{experiment}", f"--preset={preset}", *shlex.split(flags)]
    command.append(f"--workdir={workdir}")
    if minutes is not None:
        command.append(f"--max_minutes={minutes}")
    status = subprocess.run(command, stdout=sys.stderr).returncode
    return 128 - status if status < 0 else status


def row_of(results: dict[str, Any]) -> dict[str, Any]:
    """What a row of the table says of a run."""
    published = {name: value for name, value in (results["published"] or {}).items() if _is_metric(value)}
    return {
        "steps": results["steps"],
        "metrics": results["eval"]["metrics"],
        "published": published,
        "seconds": results["train"]["seconds"],
    }


def _is_metric(value: Any) -> bool:
    return isinstance(value, dict) and "mean" in value


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
