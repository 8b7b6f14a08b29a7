"""The rows of a table: presets of an entry point, each run in a process and a workdir of its own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import explicit_flags, resolve, unused_flags
from experiments.settings import Experiment
from experiments.workdir import is_finished, read_json, write_json
from jmeta.report.table import displayed, metric_summary, metrics_of

# (preset, workdir, minutes that are left) -> exit status
RunRow = Callable[[str, Path, float | None], int]


def run_rows(
    presets: Iterable[str], run_one: RunRow, output: Path, max_minutes: float | None
) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run presets one after another until the minutes are over, each in a folder of `output`.

    Returns the exit status of a run that a signal stopped, else 0, and the results that there are by then.
    """
    start_time, results = time.monotonic(), {}
    for preset in presets:
        left = None if max_minutes is None else max_minutes - (time.monotonic() - start_time) / 60
        if left is None or left > 0:
            status = run_one(preset, output / preset, left)
            if status in (130, 143):  # the same command goes on
                return status, results
            if status:
                print(f"{preset}: failed, exit status {status}", file=sys.stderr)
        row = read_json(output / preset / "results.json")
        if row is not None:
            results[preset] = row
    return 0, results


def run_row(
    experiment: Experiment,
    flags: Sequence[str],
    preset: str,
    workdir: Path,
    minutes: float | None,
    *,
    other_folders: Sequence[Path] = (),
) -> int:
    """Run a preset in a process of its own, and return its exit status.

    `flags` are those of all rows. The row that this one starts from is in the folder of the workdir, or in
    one of `other_folders`. The results go to standard error.
    """
    arguments = [*flags] + ([] if minutes is None else [f"--max_minutes={minutes}"])
    start = experiment.presets[preset].get("init_from")
    if start in experiment.presets:
        folders = [folder for folder in (workdir.parent, *other_folders) if is_finished(folder / start)]
        if not folders:
            place = f"in {workdir.parent}" + (" or the folders beside it" if other_folders else "")
            print(f"{preset}: starts from {start}, which is not finished {place}", file=sys.stderr)
            return 2
        arguments = [f"--init_from={folders[0] / start}", *arguments]
    own = meaningful_flags(experiment, preset, arguments)
    command = [sys.executable, "-m", f"experiments.{experiment.name}", f"--preset={preset}", *own]
    finished, start_time = is_finished(workdir), time.monotonic()
    status = _run([*command, f"--workdir={workdir}"])
    if not finished and status in (0, 130, 143):
        write_json(workdir / "seconds.json", {"seconds": seconds(workdir) + time.monotonic() - start_time})
    return status


def _run(command: Sequence[str]) -> int:
    """Run a command, and return its exit status, 128 + N after signal N.

    SIGTERM is passed on to it. Ctrl-C reaches it by itself; its checkpoint is waited for.
    """
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        handler = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            status = process.wait()
        except KeyboardInterrupt:
            status = process.wait()
        finally:
            signal.signal(signal.SIGTERM, handler)
    return 128 - status if status < 0 else status


def meaningful_flags(experiment: Experiment, preset: str, flags: Sequence[str]) -> list[str]:
    """Select the flags that mean something for a preset, and name the others on standard error."""
    explicit = explicit_flags(experiment, ["", f"--preset={preset}", *flags])
    reasons = unused_flags(experiment, resolve(experiment, explicit))
    own = []
    for flag in flags:
        name = flag.lstrip("-").partition("=")[0]
        name = name if name in experiment.flags else name.removeprefix("no")
        if name in reasons:
            print(f"{preset}: without {flag}, {reasons[name]}", file=sys.stderr)
        else:
            own.append(flag)
    return own


def seconds(workdir: Path) -> float:
    """Read the seconds that the commands of a row have taken so far."""
    taken = (read_json(workdir / "seconds.json") or {}).get("seconds")
    return taken if isinstance(taken, int | float) else 0.0


def summarize_row(results: dict[str, Any]) -> dict[str, Any]:
    """Summarize a run's results as a row of the table, in percent, without metrics that are not finite."""
    row, metrics = results["published"] or {}, {}
    for name in results["eval"]["metrics"]:
        with contextlib.suppress(ValueError, TypeError):
            metrics[name] = metric_summary(results, name)
    return {
        "steps": results["steps"],
        "metrics": metrics,
        "published": {name: displayed(row[name], ("mean", "ci95")) for name in metrics_of(row)},
        "seconds": results["train"]["seconds"],
    }


def format_metrics(metrics: dict[str, dict[str, float | None]]) -> str:
    """Write metrics on a line, each with its deviation over runs, or else its interval, if it has one."""
    parts = []
    for name, metric in metrics.items():
        spread = metric.get("std") or metric.get("ci95")
        parts.append(f"{name} {metric['mean']:.4g}" + (f" +- {spread:.2g}" if spread is not None else ""))
    return ", ".join(parts) or "-"
