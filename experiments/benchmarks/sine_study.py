"""The sine-wave study of learned optimisers, whole: Figure 3.3, or the sweep of Figure 3.2.

Huisman et al., Machine Learning 2022. Each point is a run of experiments.learned_optimizers with its seeds
side by side, in a workdir of its own under --output: what was interrupted goes on, what is finished is read.
Ends with a table, study_3_2.json or study_3_3.json, and the figure; a point without results is left out.

python -m experiments.benchmarks.sine_study --figure=3.3 [--num_seeds=30] [--tasks=70000] [--max_minutes=110]

--figure=3.2: validation error against the depth of TURTLE's network, for 1, 5 and 10 inner steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments import learned_optimizers
from experiments.benchmarks.rows import play, play_all
from experiments.common import Experiment, Flag, UsageError, launch, shared, write_json
from experiments.learned_optimizers_presets import in_tasks

SERIES = {"turtle": "TURTLE", "turtle_first_order": "first-order TURTLE", "maml": "MAML", "fomaml": "FOMAML"}


def run(settings: SimpleNamespace) -> int:
    """Run every point, print the table, draw."""
    wanted = "figure" + settings.figure.replace(".", "_")
    presets = [name for name in learned_optimizers.EXPERIMENT.presets if name.startswith(wanted)]
    if settings.num_seeds < 2:
        raise UsageError(f"--num_seeds={settings.num_seeds}; expected at least 2, for intervals over seeds")

    def play_one(preset: str, workdir: Path, minutes: float | None) -> int:
        lengths = in_tasks(settings.tasks, 2500, meta_batch(preset))
        flags = " ".join(f"--{name}={value}" for name, value in lengths.items())
        flags += f" --num_seeds={settings.num_seeds}"
        return play("learned_optimizers", flags, preset, workdir, minutes)

    status, found = play_all(presets, play_one, Path(settings.output), settings.max_minutes)
    if status:
        return status
    points = {
        preset: measured(results) for preset, results in found.items() if whole(preset, results, settings)
    }
    print(f"{'run':<52}{'mean':>9}{'median':>9}{'ci95':>8}")
    for preset, point in points.items():
        print(f"{preset:<52}{point['mean']:9.4f}{point['median']:9.4f}{point['median_ci95']:8.4f}")
    if not points:
        print("no point is finished", file=sys.stderr)
        return 0
    name = wanted.replace("figure", "study_")
    report = {"tasks": settings.tasks, "seeds": settings.num_seeds, "points": points}
    write_json(Path(settings.output) / f"{name}.json", report)
    figure = draw(points, Path(settings.output) / f"{name}.png", settings.figure)
    print(f"figure in {figure}")
    return 0


def whole(preset: str, results: dict[str, Any], settings: SimpleNamespace) -> bool:
    """Whether a run has seen all its tasks."""
    lengths = in_tasks(settings.tasks, 2500, meta_batch(preset))
    return results["steps"] >= lengths["steps"]


def meta_batch(preset: str) -> int:
    """Tasks of an outer update of a preset."""
    return learned_optimizers.EXPERIMENT.presets[preset]["meta_batch"]


def measured(results: dict[str, Any]) -> dict[str, Any]:
    """Of a run: the test error over seeds, as means and medians over tasks, and the best validation error."""
    from jmeta.metrics import summarise

    by_seed = results["eval"]["seeds"]["squared_error"]
    means, validation = summarise(by_seed["mean"]), summarise(results["best"]["metrics"]["squared_error"])
    return {
        "mean": means.mean,
        "mean_ci95": means.ci95,
        "median": by_seed["of_medians"]["mean"],
        "median_ci95": by_seed["of_medians"]["ci95"],
        "median_of_medians": by_seed["of_medians"]["median"],
        "validation": validation.mean,
        "validation_ci95": validation.ci95,
        "seconds": results["train"]["seconds"],
    }


def draw(points: dict[str, dict[str, Any]], path: Path, figure: str) -> Path:
    """Figure 3.3's bars, or Figure 3.2's curves with MAML as levels."""
    from jmeta.report import figures

    if figure == "3.3":
        named = {
            learned_optimizers.PAPER_NAMES[preset.removeprefix("figure3_3_")]: (p["median"], p["median_ci95"])
            for preset, p in points.items()
        }
        return figures.bars(named, path, label="median test error")
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
    "tasks": Flag("integer", 70000, "training tasks of a run"),
    "output": Flag("string", "runs/sine_study", "folder of the runs, the table and the figure"),
} | shared("num_seeds", "max_minutes", num_seeds=30)

EXPERIMENT = Experiment("benchmarks.sine_study", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
