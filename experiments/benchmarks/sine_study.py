"""The sine-wave study of learned optimizers, whole: Figure 3.3, or the sweep of Figure 3.2.

Huisman et al., Machine Learning 2022. Each point is a run of experiments.learned_optimizers with its seeds
side by side, in a workdir of its own under --output: the same command continues runs that were interrupted
and reads those that are finished. Ends with a table, study_3_2.json or study_3_3.json, and the figure; a
point without results is left out.

python -m experiments.benchmarks.sine_study --figure=3.3 [--num_seeds=30] [--tasks=70000] [--max_minutes=110]

--figure=3.2: validation error against the depth of TURTLE's network, for 1, 5 and 10 inner steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jmeta
from experiments import flags, learned_optimizers
from experiments.cli import launch
from experiments.flags import Flag
from experiments.presets.turtle import METHODS, PRESETS, in_tasks
from experiments.rows import run_row, run_rows
from experiments.settings import Experiment, Settings
from experiments.workdir import write_json
from jmeta.report import figures

SERIES = {"turtle": "TURTLE", "turtle_first_order": "first-order TURTLE", "maml": "MAML", "fomaml": "FOMAML"}


def main(settings: Settings) -> int:
    """Run every point, print the table, draw."""
    start = "figure" + settings.figure.replace(".", "_")
    lengths = {
        preset: in_tasks(settings.tasks, 2500, values["meta_batch"])
        for preset, values in PRESETS.items()
        if preset.startswith(start)
    }

    def run_one(preset: str, workdir: Path, minutes: float | None) -> int:
        arguments = [f"--{name}={value}" for name, value in lengths[preset].items()]
        arguments.append(f"--num_seeds={settings.num_seeds}")
        return run_row(learned_optimizers.EXPERIMENT, arguments, preset, workdir, minutes)

    status, results = run_rows(lengths, run_one, Path(settings.output), settings.max_minutes)
    if status:
        return status
    points = {
        preset: summarize_point(result)
        for preset, result in results.items()
        if result["steps"] >= lengths[preset]["steps"]
    }
    print(f"{'run':<52}{'mean':>9}{'median':>9}{'ci95':>8}")
    for preset, point in points.items():
        print(f"{preset:<52}{point['mean']:9.4f}{point['median']:9.4f}{point['median_ci95']:8.4f}")
    if not points:
        print("no point is finished", file=sys.stderr)
        return 0
    name = start.replace("figure", "study_")
    report = {"tasks": settings.tasks, "seeds": settings.num_seeds, "points": points}
    write_json(Path(settings.output) / f"{name}.json", report)
    figure = draw(points, Path(settings.output) / f"{name}.png", settings.figure)
    print(f"figure in {figure}")
    return 0


def summarize_point(results: dict[str, Any]) -> dict[str, Any]:
    """Summarize the test error of a run over its seeds, as means and medians over tasks, and the best
    validation error."""
    error = results["eval"]["metrics"]["squared_error"]
    validation = jmeta.summarize(results["best"]["metrics"]["squared_error"], over="seeds")
    return {
        "mean": error["mean"],
        "mean_ci95": error["ci95"],
        "median": error["of_medians"]["mean"],
        "median_ci95": error["of_medians"]["ci95"],
        "median_of_medians": error["of_medians"]["median"],
        "validation": validation.mean,
        "validation_ci95": validation.ci95,
        "seconds": results["train"]["seconds"],
    }


def draw(points: dict[str, dict[str, Any]], path: Path, figure: str) -> Path:
    """Draw Figure 3.3's bars, or Figure 3.2's curves with MAML as levels."""
    if figure == "3.3":
        bars = {
            METHODS[preset.removeprefix("figure3_3_")]: (point["median"], point["median_ci95"])
            for preset, point in points.items()
        }
        return figures.bars(bars, path, label="median test error")
    panels: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for preset, point in points.items():
        algorithm, steps, *layers = preset.removeprefix("figure3_2_").rsplit(
            "_", preset.endswith("layers") + 1
        )
        number = int(steps.removesuffix("steps"))
        title = f"{number} inner step{'s' * (number > 1)}"
        depth = int(layers[0].removesuffix("layers")) if layers else 0
        curve = panels.setdefault(title, {}).setdefault(SERIES[algorithm], [])
        curve.append((depth, point["validation"], point["validation_ci95"]))
    return figures.sweep(panels, path, x_label="hidden layers", y_label="validation error")


FLAGS = {
    "figure": Flag("enum", "3.3", "which study", ("3.2", "3.3")),
    "tasks": Flag("integer", 70000, "training tasks of a run", least=1),
    "output": Flag("string", "runs/sine_study", "folder of the runs, the table and the figure"),
    "num_seeds": Flag("integer", 30, "seeds side by side, at least 2 for intervals over them", least=2),
    **flags.pick("max_minutes"),
}
EXPERIMENT = Experiment("benchmarks.sine_study", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
