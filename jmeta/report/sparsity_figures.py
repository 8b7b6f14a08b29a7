"""Figures 1 and 2 of sparse-MAML (von Oswald et al. 2021): sparsity in training, and what it follows.

A point is (x, accuracy, half-width of its interval, sparsity), the last three in percent; a missing one is
NaN.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jmeta.report.figures import PALETTE, Record, open_figure

Point = tuple[float, float, float, float]
_SHOWN = ("/kernel", "head/bias")


def sparsity_in_training(
    runs: Mapping[float, Iterable[Record]],
    accuracies: Mapping[float, tuple[float, float]],
    level: float,
    path: str | os.PathLike[str],
) -> Path:
    """Draw Figure 1: sparsity from several initial levels, by depth, and accuracy by initial level.

    Args:
      runs: by initial sparsity (percent), the lines of metrics.jsonl of a run, whose training lines have
        "sparsity" and "sparsity/<array>", and that of step 0 "learned/sparsity" (0 to 1).
      accuracies: by initial sparsity, test accuracy and half-width of its interval (percent).
      level: the run whose arrays are drawn: the kernels from the input on, and the last layer.
      path: of the figure.

    Returns:
      `path`.
    """
    lines = {start: [line for line in run if line.get("split") == "train"] for start, run in runs.items()}
    with open_figure(path, width=10.0, height=3.2) as figure:
        left, center, right = figure.subplots(1, 3)
        for index, start in enumerate(sorted(lines)):
            color = PALETTE[index % len(PALETTE)]
            left.plot(*_series(lines[start], "sparsity"), color=color, label=f"{start:g} % at first")
        for index, name in enumerate(_arrays(lines.get(level, []))):
            label = name.removeprefix("sparsity/").replace("/", " ")
            color = PALETTE[index % len(PALETTE)]
            center.plot(*_series(lines[level], name), color=color, label=label)
        x = sorted(accuracies)
        values, spreads = zip(*(accuracies[start] for start in x)) if x else ((), ())
        right.errorbar(x, values, yerr=spreads, color=PALETTE[0], marker="o", capsize=3)
        left.set(xlabel="outer update", ylabel="sparsity (%)", ylim=(0, 100))
        center.set(xlabel="outer update", ylabel="sparsity (%)", ylim=(0, 100))
        right.set(xlabel="initial sparsity (%)", ylabel="test accuracy (%)")
        left.legend()
        center.legend()
    return Path(path)


def accuracy_and_sparsity(
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    path: str | os.PathLike[str],
    *,
    log_scale: Sequence[str] = (),
) -> Path:
    """Draw Figure 2: accuracy (solid) and sparsity (dashed, on the right) against an inner setting.

    Args:
      panels: by the label of the setting, {method: its points}; a point without a sparsity is one of a method
        that has none.
      path: of the figure.
      log_scale: the settings that are drawn on a log scale.

    Returns:
      `path`.
    """
    with open_figure(path, width=0.6 + 4.2 * len(panels), height=3.2) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, (setting, curves) in zip(axes, panels.items()):
            beside = panel.twinx()
            beside.grid(False)
            beside.spines["right"].set_visible(True)
            for index, (method, points) in enumerate(curves.items()):
                x, accuracy, spread, share = np.asarray(sorted(points), float).reshape(-1, 4).T
                color = PALETTE[index % len(PALETTE)]
                panel.errorbar(x, accuracy, yerr=spread, color=color, marker="o", capsize=3, label=method)
                if np.isfinite(share).any():
                    beside.plot(x, share, "--", color=color, marker="s", label=f"{method}: sparsity")
            if setting in log_scale:
                panel.set_xscale("log")
            else:
                panel.xaxis.get_major_locator().set_params(integer=True)
            panel.set(xlabel=setting, ylabel="test accuracy (%)")
            beside.set(ylabel="sparsity (%)", ylim=(0, 100))
        # Axes on the right, whose labels are those of their panel, come after all panels.
        handles = [axis.get_legend_handles_labels() for axis in (axes[0], figure.axes[len(axes)])]
        figure.legend(*(sum(parts, []) for parts in zip(*handles)), loc="outside upper center", ncols=4)
    return Path(path)


def _arrays(lines: Sequence[Record]) -> list[str]:
    """List the arrays to draw, in the order of the network: the layer called head comes last."""
    names = {name for line in lines for name in line if name.startswith("sparsity/")}
    names = {name for name in names if name.endswith(_SHOWN)}
    return sorted(names, key=lambda name: ("/head/" in name, name.endswith("/bias"), name))


def _series(lines: Sequence[Record], name: str) -> tuple[list[float], list[float]]:
    """Read the steps and a share (percent) of the lines that have it, as learned/<name> if not as <name>."""
    points = [(line["step"], line.get(name, line.get(f"learned/{name}"))) for line in lines]
    found = [(step, 100 * value) for step, value in points if value is not None]
    return [step for step, _ in found], [value for _, value in found]
