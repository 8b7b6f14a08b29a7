"""Figures 1 and 2 of sparse-MAML, drawn from finished rows, on whatever data they were run.

    python -m experiments.reproduce --table=sparse_maml/figure1 --output=DIR --flags=...
    python -m experiments.reproduce --table=sparse_maml/figure2 --output=DIR --flags=...
    python -m experiments.benchmarks.sparse_maml_figures --output=DIR

Reads the workdirs DIR/sparse_maml_figure*, which are named after their presets, and writes
DIR/sparse_maml_figure1.png and ..._figure2.png; a row without results is left out. Accuracies have the
deviation over seeds, or of one seed the 95 % interval over test tasks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import flags
from experiments.cli import launch
from experiments.errors import UsageError
from experiments.presets.sparse_maml_few_shot import PAPER_NAMES, PRESETS
from experiments.settings import Experiment, Settings
from experiments.workdir import read_json

NAMES = {"maml": "MAML", **PAPER_NAMES}


def main(settings: Settings) -> int:
    """Draw the figures that have finished rows."""
    output = Path(settings.output)
    results = {
        preset: row
        for preset in PRESETS
        if (row := read_json(output / preset / "results.json")) and "figure" in preset
    }
    if not results:
        raise UsageError(f"--output={output}: no finished row of sparse_maml/figure1 or figure2")
    for path in (draw_figure_1(output, results), draw_figure_2(output, results)):
        if path is not None:
            print(f"figure in {path}")
    return 0


def draw_figure_1(output: Path, results: Mapping[str, dict[str, Any]]) -> Path | None:
    """Draw Figure 1; None if none of its rows is finished."""
    from jmeta.outer.metrics_log import read_metrics
    from jmeta.report.sparsity_figures import sparsity_in_training

    levels = {
        float(match[1]): preset
        for preset in results
        if (match := re.fullmatch(r"sparse_maml_figure1_(\d+)percent", preset))
    }
    if not levels:
        return None
    lines = {level: read_metrics(output / preset / "metrics.jsonl") for level, preset in levels.items()}
    accuracies = {level: accuracy_of(results[preset]) for level, preset in levels.items()}
    middle = min(levels, key=lambda level: abs(level - 50))
    return sparsity_in_training(lines, accuracies, middle, output / "sparse_maml_figure1.png")


def draw_figure_2(output: Path, results: Mapping[str, dict[str, Any]]) -> Path | None:
    """Draw Figure 2; None if none of its rows is finished."""
    from jmeta.report.sparsity_figures import accuracy_and_sparsity

    panels: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    for preset, row in results.items():
        match = re.fullmatch(r"sparse_maml_figure2_(\w+)_(\d+steps|rate[\d.]+)", preset)
        if match:
            setting = "inner steps" if match[2].endswith("steps") else "inner rate"
            x = float(match[2].removesuffix("steps").removeprefix("rate"))
            share = row["eval"]["metrics"].get("sparsity", {}).get("mean", float("nan"))
            points = panels.setdefault(setting, {}).setdefault(NAMES[match[1]], [])
            points.append((x, *accuracy_of(row), 100 * share))
    if not panels:
        return None
    path = output / "sparse_maml_figure2.png"
    return accuracy_and_sparsity(panels, path, log_scale=["inner rate"])


def accuracy_of(row: Mapping[str, Any]) -> tuple[float, float]:
    """Read the test accuracy (percent) of a run, and its deviation over seeds or else its interval."""
    import numpy as np

    metric = row["eval"]["metrics"]["accuracy"]
    by_seed = (row["eval"].get("seeds") or {}).get("accuracy", ())
    spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else metric["ci95"] or 0.0
    return 100 * metric["mean"], 100 * spread


FLAGS = {
    "output": flags.Flag("string", "runs/sparse_maml/figure1", "folder of the rows and the figures"),
}
EXPERIMENT = Experiment("benchmarks.sparse_maml_figures", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
