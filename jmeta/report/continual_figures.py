"""Figures of continual runs: accuracy on every task after every task, and sparsity by layer."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jmeta.report.figures import PALETTE, Record, draw_band, open_figure
from jmeta.report.table import StoredRun


def accuracy_heatmap(matrices: Any, path: str | os.PathLike[str]) -> Path:
    """Draw the mean accuracy over seeds: a row for the last task learned, a column for the task tested.

    matrices [seed, after, on]: in 0..1. The title gives the mean of the last row (retained accuracy), its
    difference to the mean of the diagonal (backward transfer and interference, in points of percent), and the
    number of seeds.
    """
    matrices = 100 * np.asarray(matrices, float)
    matrix, seeds = matrices.mean(0), len(matrices)
    retained, learning = matrix[-1].mean(), np.diagonal(matrix).mean()
    with open_figure(path, width=4.2, height=3.6) as figure:
        panel = figure.subplots()
        extent = (0.5, matrix.shape[1] + 0.5, matrix.shape[0] + 0.5, 0.5)
        image = panel.imshow(matrix, vmin=0, vmax=100, cmap="viridis", extent=extent, aspect="auto")
        panel.grid(False)
        panel.set(xlabel="tested on task", ylabel="after task")
        _whole_tasks(panel.xaxis, panel.yaxis)
        title = f"retained {retained:.1f} %, backward transfer {retained - learning:+.1f} points"
        panel.set_title(title + (f"\nmean over {seeds} seeds" if seeds > 1 else ""), loc="left")
        figure.colorbar(image, ax=panel, label="accuracy (%)")
    return Path(path)


def sparsity_curves(records: Iterable[Record], path: str | os.PathLike[str]) -> Path:
    """Draw the share of weights whose learning is shut off against the tasks or batches seen, a line for each
    parameter group (von Oswald et al. 2021, Figures 3, 4 and S5).

    records: the lines of metrics.jsonl, of which those with a sparsity count, and if any has "tasks_seen",
    only those; weights W1, W2, ... are solid, biases b1, b2, ... dashed. If all lines have
    "sparsity/<group>_by_trial", a band shows one deviation over the trials.
    """
    records = [record for record in records if any(name.startswith("sparsity") for name in record)]
    by_task = any("tasks_seen" in record for record in records)
    records = [record for record in records if "tasks_seen" in record or not by_task]
    names = [name for name in (records[0] if records else {}) if name.startswith("sparsity/")]
    groups = sorted(name for name in names if not name.endswith("_by_trial"))
    seen = np.asarray([record["tasks_seen" if by_task else "step"] for record in records])
    with open_figure(path, width=4.6, height=3.0) as figure:
        panel = figure.subplots()
        for name in groups:
            group = name.removeprefix("sparsity/")
            color = PALETTE[(int(group[1:]) - 1) % len(PALETTE)]
            share = 100 * np.asarray([record[name] for record in records], float)
            panel.plot(seen, share, "-" if group.startswith("W") else "--", color=color, label=group)
            trials = [record.get(f"{name}_by_trial") for record in records]  # [record][trial]
            if all(trials):
                draw_band(panel, seen, 100 * np.asarray(trials, float), color=color, of="trials", most=100.0)
        panel.set(xlabel="tasks seen" if by_task else "batches seen", ylabel="sparsity (%)", ylim=(-2, 102))
        _whole_tasks(panel.xaxis)
        if groups:
            # One entry for the bands of all groups
            entries = dict(zip(*reversed(panel.get_legend_handles_labels())))
            panel.legend(entries.values(), entries.keys(), ncols=2)
    return Path(path)


def accuracy_against_width(
    runs: Sequence[StoredRun], widths: Sequence[int], names: Sequence[str], path: str | os.PathLike[str]
) -> Path:
    """Draw the retained accuracy and the overall sparsity of finished continual runs against the width of the
    network (von Oswald et al. 2021, Figure 3, right).

    Args:
      runs: runs with the metric "retained_accuracy" and the learned "sparsity".
      widths: the width of each run's hidden layers.
      names: the legend entry of each run; runs of one name are one line.
      path: the file to write.

    The band is the 95 % interval over seeds; the axis of widths is logarithmic.
    """
    curves: dict[str, list[tuple[int, StoredRun]]] = {}
    for width, name, run in sorted(zip(widths, names, runs), key=lambda point: point[0]):
        curves.setdefault(name, []).append((width, run))
    with open_figure(path, width=6.4, height=2.8) as figure:
        accuracy, sparsity = figure.subplots(1, 2)
        for color, (name, points) in zip(itertools.cycle(PALETTE), curves.items()):
            x = [width for width, _ in points]
            metrics = [run.results["eval"]["metrics"]["retained_accuracy"] for _, run in points]
            mean, spread = 100 * np.asarray([(m["mean"], m["ci95"] or 0.0) for m in metrics]).T
            accuracy.plot(x, mean, marker="o", color=color, label=name)
            low, high = np.clip((mean - spread, mean + spread), 0, 100)
            accuracy.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
            shares = [100 * run.results["learned"]["sparsity"] for _, run in points]
            sparsity.plot(x, shares, marker="o", color=color)
        ticks = sorted(set(widths))
        for panel, label in ((accuracy, "retained accuracy (%)"), (sparsity, "sparsity (%)")):
            panel.set_xscale("log")
            panel.minorticks_off()
            panel.set_xticks(ticks, [str(width) for width in ticks])
            panel.set(xlabel="units of a hidden layer", ylabel=label)
        sparsity.set_ylim(bottom=0)
        figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return Path(path)


def accuracy_over_stream(
    accuracies: Any, domains: Any, names: Sequence[str], path: str | os.PathLike[str]
) -> Path:
    """Draw the cumulative accuracy over a stream, the mean over seeds with a band of one deviation; beside it
    the mean of each domain, with its deviation over seeds.

    accuracies [seed, step]: in 0..1, each measured before the labels were used; domains [seed, step]: indices
    into `names`.
    """
    accuracies, domains = 100 * np.asarray(accuracies, float), np.asarray(domains)
    steps = np.arange(1, accuracies.shape[1] + 1)
    cumulative = accuracies.cumsum(1) / steps[None]
    mean = cumulative.mean(0)
    with open_figure(path, width=6.4, height=2.8) as figure:
        panel, beside = figure.subplots(1, 2, width_ratios=(2, 1))
        panel.plot(steps, mean, color=PALETTE[0])
        draw_band(panel, steps, cumulative.T, color=PALETTE[0], of="seeds", most=100.0)
        if len(cumulative) > 1:
            panel.legend(loc="lower right")
        panel.set(xlabel="batches seen", ylabel="cumulative accuracy (%)", ylim=(0, 102))
        panel.set_title(f"{mean[-1]:.1f} % over the stream", loc="left")
        seen = [place for place in range(len(names)) if (domains == place).any()]
        for index, place in enumerate(seen):
            by_seed = [row[mask] for row, mask in zip(accuracies, domains == place) if mask.any()]
            means = np.asarray([row.mean() for row in by_seed])
            whiskers = _deviation(means, axis=0) if len(means) > 1 else None
            beside.bar(index, means.mean(), yerr=whiskers, color=PALETTE[place + 1], width=0.6)
        beside.set(ylabel="accuracy (%)", ylim=(0, 102), xlim=(-0.6, len(seen) - 0.4))
        beside.set_xticks(range(len(seen)), [names[place].replace("_", " ") for place in seen], rotation=20)
    return Path(path)


def _deviation(values: np.ndarray, *, axis: int) -> np.ndarray:
    """Compute the sample deviation, as in results.json; 0 for a single value."""
    return values.std(axis=axis, ddof=1) if values.shape[axis] > 1 else np.zeros_like(values.sum(axis=axis))


def _whole_tasks(*axes: Any) -> None:
    for axis in axes:
        axis.get_major_locator().set_params(integer=True, min_n_ticks=1)
