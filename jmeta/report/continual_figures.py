"""Figures of continual runs: accuracy on every task after every task, and sparsity by layer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jmeta.report.figures import PALETTE, Record, _figure


def accuracy_matrix(matrix: Any, path: str | os.PathLike[str]) -> Path:
    """Draw accuracies [after, on] in percent: a row for what had been learned, a column for what is tested.

    The title gives the mean of the last row (retained accuracy) and its difference to the mean of the
    diagonal (backward transfer and interference).
    """
    matrix = np.asarray(matrix, float)
    retained, learning = matrix[-1].mean(), np.diagonal(matrix).mean()
    with _figure(path, width=4.2, height=3.6) as figure:
        panel = figure.subplots()
        extent = (0.5, matrix.shape[1] + 0.5, matrix.shape[0] + 0.5, 0.5)
        shown = panel.imshow(matrix, vmin=0, vmax=100, cmap="viridis", extent=extent, aspect="auto")
        panel.grid(False)
        panel.set(xlabel="tested on task", ylabel="after task")
        _whole_tasks(panel.xaxis, panel.yaxis)
        panel.set_title(
            f"retained {retained:.1f} %, backward transfer {retained - learning:+.1f}", loc="left"
        )
        figure.colorbar(shown, ax=panel, label="accuracy (%)")
    return Path(path)


def sparsity_by_layer(records: Iterable[Record], path: str | os.PathLike[str]) -> Path:
    """Draw the share of weights whose learning is shut off against the tasks seen, a line for each parameter
    group (von Oswald et al. 2021, Figures 3 and 4).

    records: the lines of metrics.jsonl, of which those with "task" and "sparsity/<group>" count; weights W1,
    W2, ... are solid, biases b1, b2, ... dashed. Where "sparsity/<group>_by_lane" is there, a band shows the
    deviation over the runs side by side.
    """
    records = [record for record in records if "task" in record]
    names = [name for name in (records[0] if records else {}) if name.startswith("sparsity/")]
    groups = sorted(name for name in names if not name.endswith("_by_lane"))
    tasks = np.asarray([record["task"] + 1 for record in records])
    with _figure(path, width=4.6, height=3.0) as figure:
        panel = figure.subplots()
        for name in groups:
            group = name.removeprefix("sparsity/")
            colour = PALETTE[(int(group[1:]) - 1) % len(PALETTE)]
            share = 100 * np.asarray([record[name] for record in records], float)
            panel.plot(tasks, share, "-" if group.startswith("W") else "--", color=colour, label=group)
            lanes = [record.get(f"{name}_by_lane") for record in records]
            if all(lanes):
                spread = 100 * np.asarray(lanes, float).std(axis=1)
                panel.fill_between(
                    tasks, share - spread, share + spread, color=colour, alpha=0.15, linewidth=0
                )
        panel.set(xlabel="tasks seen", ylabel="sparsity (%)", ylim=(-2, 102))
        _whole_tasks(panel.xaxis)
        if groups:
            panel.legend(ncols=2)
    return Path(path)


def _whole_tasks(*axes: Any) -> None:
    for axis in axes:
        axis.get_major_locator().set_params(integer=True, min_n_ticks=1)
