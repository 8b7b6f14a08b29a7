"""Figures: learning curves, the horizon, an episode as images, how methods scale and compare.

Every function draws one figure, writes it whole to `path` (.png, .pdf or .svg) and returns the path.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Record = Mapping[str, Any]

# Okabe and Ito's colors: distinct for every kind of color vision, and in print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_RIGHT, _WRONG, _MUTED = "#0072B2", "#D55E00", "#666666"
_PITCH = 1.1  # from one image to the next, in images
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "svg.fonttype": "none",
}
HORIZON = "learned/horizon"
_LABELS = {"loss": "loss", "accuracy": "accuracy (%)", "squared_error": "mean squared error"}


def learning_curves(
    records: Iterable[Record], path: str | os.PathLike[str], *, against: str = "outer update"
) -> Path:
    """Plot training and validation metrics, a panel for each logged metric; `against` labels the x-axis.

    records: the lines of metrics.jsonl, {"step", "split": "train" or "validation", "loss", "accuracy" (0 to
    1), "squared_error"}; a missing key or a value that is not finite is a missing point. If there are many
    training points, they are faint and their running mean is drawn over them. Where a validation has values
    by seed ("<metric>_by_seed"), a band shows one deviation over the seeds. A loss that is the squared error
    has no panel of its own.
    """
    records = list(records)
    metrics = [name for name in _LABELS if any(_finite(record, name) for record in records)] or ["loss"]
    if "squared_error" in metrics and all(
        record.get("loss") == record.get("squared_error") for record in records
    ):
        metrics.remove("loss")
    with open_figure(path, width=3.6 * len(metrics), height=2.7) as figure:
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for panel, name in zip(panels, metrics):
            scale = 100.0 if name == "accuracy" else 1.0
            _draw_training(panel, *_series(records, name, "train", scale))
            _draw_validation(panel, *_series(records, name, "validation", scale))
            most = 100.0 if name == "accuracy" else math.inf
            draw_band(panel, *_by_seed(records, name, scale), most=most, color=PALETTE[1], of="seeds")
            panel.set(xlabel=against, ylabel=_LABELS[name])
            panel.margins(x=0.02)
            _whole_steps(panel)
        _legend_above(figure, panels[0])
    return Path(path)


def horizon_curve(records: Iterable[Record], path: str | os.PathLike[str]) -> Path:
    """Draw the learned horizon T, on a log scale, against the outer update (COMLN Figure 5, left).

    records: the lines of metrics.jsonl, of which those with a positive "learned/horizon" count: its value at
    the step of the line.
    """
    positive = (record for record in records if _positive(record, HORIZON))
    steps, horizon = _series(positive, HORIZON, None, 1.0)
    with open_figure(path, width=3.8, height=2.7) as figure:
        panel = figure.subplots()
        panel.plot(steps, horizon, color=PALETTE[0], marker="o" if len(steps) == 1 else None)
        _log_axis(panel, "y", horizon)
        panel.set(xlabel="outer update", ylabel="horizon $T$")
        panel.margins(x=0.02)
        _whole_steps(panel)
        if len(steps):
            panel.set_title(f"$T$ = {horizon[0]:.3g} at first, {horizon[-1]:.3g} at last", loc="left")
    return Path(path)


def scaling(
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    path: str | os.PathLike[str],
    *,
    max_seconds: float | None = 2.0,
    max_bytes: float | None = 4e9,
    learning_rate: float = 0.01,
) -> Path:
    """Draw memory and time of one meta-gradient against the horizon, a line for each method (COMLN Figure 3).

    curves: by method, points {"horizon", "seconds", "bytes"} (missing or not finite: left out). The limits at
    which a benchmark stops are dashed lines; a curve that stops short of the longest horizon ends in a cross.
    The upper axis counts the gradient steps of size `learning_rate` that amount to a horizon.
    """
    points = [point for curve in curves.values() for point in curve if _positive(point, "horizon")]
    horizons = [point["horizon"] for point in points]
    panes = (("bytes", 1e-6, "peak memory (MB)", max_bytes), ("seconds", 1e3, "time (ms)", max_seconds))
    with open_figure(path, width=7.2, height=3.3) as figure:
        panels = figure.subplots(1, 2)
        for panel, (quantity, scale, label, limit) in zip(panels, panes):
            for index, (name, curve) in enumerate(curves.items()):
                measured = [point for point in curve if _positive(point, quantity)]
                x, y = _series(measured, quantity, None, scale, against="horizon")
                color = PALETTE[index % len(PALETTE)]
                panel.plot(x, y, color=color, marker=_MARKERS[index % len(_MARKERS)], label=name)
                if len(x) and x[-1] < max(horizons):
                    panel.plot(x[-1], y[-1], "x", color=color, markersize=9, markeredgewidth=2)
            values = [point[quantity] * scale for point in points if _positive(point, quantity)]
            if limit is not None:
                values.append(limit * scale)
                panel.axhline(limit * scale, color=_MUTED, linestyle="--", linewidth=1, label="limit")
            panel.plot([], [], "x", color=_MUTED, markersize=7, markeredgewidth=2, label="stopped")
            _log_axis(panel, "x", horizons)
            _log_axis(panel, "y", values)
            panel.set(xlabel="horizon $T$", ylabel=label)
            upper = panel.secondary_xaxis(
                "top", functions=(lambda t: t / learning_rate, lambda k: k * learning_rate)
            )
            upper.set_xlabel(f"gradient steps of size {learning_rate:g}")
        _legend_above(figure, panels[0])
    return Path(path)


def bars(values: Mapping[str, tuple[float, ...]], path: str | os.PathLike[str], *, label: str) -> Path:
    """Draw a bar with a whisker for each name, on an axis called `label`.

    values: name -> (value, half-width of its 95 % interval) or (value, least, greatest).
    """
    with open_figure(path, width=1.2 + 0.85 * len(values), height=3.0) as figure:
        panel = figure.subplots()
        heights = [value[0] for value in values.values()]
        below, above = zip(*map(_whisker, values.values()))
        colors = [PALETTE[index % len(PALETTE)] for index in range(len(values))]
        panel.bar(range(len(values)), heights, yerr=(below, above), color=colors, width=0.65, capsize=4)
        for index, (height, spread) in enumerate(zip(heights, above)):
            number = f"{height:.0f}" if abs(height) >= 1000 else f"{height:.3g}"
            panel.text(index, height + spread, number, ha="center", va="bottom", fontsize=8)
        panel.set_xticks(range(len(values)), [name.replace(" ", "\n", 1) for name in values])
        panel.set_ylabel(label)
        panel.margins(y=0.12)
        panel.grid(axis="x", visible=False)
    return Path(path)


def scatter(
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]],
    path: str | os.PathLike[str],
    *,
    x_label: str,
    y_label: str,
) -> Path:
    """Draw a point with a 95 % interval for each name, a panel for each title, all with one legend.

    panels: title -> name -> (x, value, half-width of the value's interval).
    """
    names = list(dict.fromkeys(name for points in panels.values() for name in points))
    with open_figure(path, width=1.0 + 3.0 * len(panels), height=3.2) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, (title, points) in zip(axes, panels.items()):
            for index, name in enumerate(names):
                x, value, spread = points.get(name, (math.nan,) * 3)
                style = {"color": PALETTE[index % len(PALETTE)], "marker": _MARKERS[index % len(_MARKERS)]}
                panel.errorbar(x, value, yerr=spread, linestyle="none", capsize=3, label=name, **style)
            panel.set(xlabel=x_label, title=title)
            panel.margins(0.12)
        axes[0].set_ylabel(y_label)
        _legend_above(figure, *axes)
    return Path(path)


def sweep(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]],
    path: str | os.PathLike[str],
    *,
    x_label: str,
    y_label: str,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Path:
    """Draw curves with 95 % intervals, a panel for each title, all on one scale.

    panels: title -> curve -> points (x, value, half-width of the interval); a curve of one point is a level.
    Intervals are cut at the `bounds` of a value, (0, 100) of an accuracy in percent.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    with open_figure(path, width=0.8 + 2.5 * len(panels), height=3.0) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for panel, (title, curves) in zip(axes, panels.items()):
            for name, points in curves.items():
                index = names.index(name)
                style = {"color": PALETTE[index % len(PALETTE)], "label": name}
                x, value, spread = np.asarray(sorted(points), float).T
                low, high = np.clip((value - spread, value + spread), *bounds)
                if len(x) == 1:
                    panel.axhline(value[0], linestyle="--", **style)
                    panel.axhspan(low[0], high[0], color=style["color"], alpha=0.15, lw=0)
                    continue
                panel.plot(x, value, marker=_MARKERS[index % len(_MARKERS)], **style)
                panel.fill_between(x, low, high, color=style["color"], alpha=0.2, lw=0)
            panel.set(xlabel=x_label, title=title)
            _whole_steps(panel)
        axes[0].set_ylabel(y_label)
        _legend_above(figure, *axes)
    return Path(path)


def episode(
    support_images: Any,
    support_labels: Any,
    query_images: Any,
    query_labels: Any,
    predictions: Any,
    path: str | os.PathLike[str],
    *,
    columns: int = 15,
) -> Path:
    """Draw one task and its predictions: a row for each way, its support set left, its query set right.

    images [example, height, width, channel] or [example, height, width], of any range (scaled to the task's
    own); labels and predictions [example] integers; examples with a negative label (padding) are left out.
    Right predictions have a thin blue frame, wrong ones a thick orange frame and the predicted way below. At
    most `columns` images of a set are drawn in a row; the title counts all of them.
    """
    support_labels, query_labels, predictions = map(np.asarray, (support_labels, query_labels, predictions))
    support, query = _displayable(support_images, query_images)
    ways = np.unique(np.concatenate([support_labels, query_labels]))
    ways = ways[ways >= 0]
    supports = [np.flatnonzero(support_labels == way)[:columns] for way in ways]
    queries = [np.flatnonzero(query_labels == way)[:columns] for way in ways]
    row_pitch, start = 1.34, _PITCH * max(map(len, supports), default=0) + 0.5
    real = query_labels >= 0
    right = predictions == query_labels
    width = start + max(_PITCH * max(map(len, queries), default=0), 3)  # 3: room for the title
    with open_figure(path) as figure:
        panel = _canvas(figure, width, row_pitch * len(ways), left=0.6, top=0.32)
        for row, way in enumerate(ways):
            top = row_pitch * row
            panel.text(-0.2, top + 0.5, f"way {way}", ha="right", va="center")
            for column, index in enumerate(supports[row]):
                _tile(panel, support[index], _PITCH * column, top)
            for column, index in enumerate(queries[row]):
                x = start + _PITCH * column
                if right[index]:
                    _tile(panel, query[index], x, top, _RIGHT, 0.8)
                else:
                    _tile(panel, query[index], x, top, _WRONG, 2.4)
                    text = f"\N{RIGHTWARDS ARROW} {predictions[index]}"
                    panel.text(x + 0.5, top + 1.06, text, ha="center", va="top", color=_WRONG, size=6.5)
        panel.text(0, -0.15, "support", va="bottom")
        panel.text(start, -0.15, f"query: {right[real].sum()} of {real.sum()} right", va="bottom")
    return Path(path)


def regression_fit(
    curves: Mapping[str, tuple[Any, Any]], support: tuple[Any, Any], target: tuple[Any, Any],
    path: str | os.PathLike[str],
) -> Path:  # fmt: skip
    """Draw the fit of a function of one variable: the target, the support set and a curve for each name.

    Args:
      curves: name, such as "before" or "after 1 step" -> (x [point], y [point]), in the order of the steps;
        later ones are darker.
      support: (x [shot], y [shot]).
      target: (x [point], y [point]), the function without noise.
      path: the file to write.
    """
    import matplotlib

    shades = matplotlib.colormaps["Blues"](np.linspace(0.3, 1.0, max(len(curves), 2)))
    with open_figure(path, width=5.2, height=3.2) as figure:
        panel = figure.subplots()
        panel.plot(*_in_order(target), color=_MUTED, linestyle="--", label="target")
        for shade, (name, curve) in zip(shades, curves.items()):
            panel.plot(*_in_order(curve), color=shade, label=name)
        panel.plot(*support, "o", color=PALETTE[1], label="support", zorder=3)
        panel.set(xlabel="x", ylabel="y")
        panel.margins(x=0.02)
        _legend_above(figure, panel)
    return Path(path)


def _in_order(curve: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Flatten the points of a curve and order them by x."""
    x, y = (np.asarray(values, float).reshape(-1) for values in curve)
    order = np.argsort(x)
    return x[order], y[order]


def sheet(images: Any, path: str | os.PathLike[str], *, columns: int = 20) -> Path:
    """Draw images as a contact sheet.

    images [class, sample, height, width, channel] (a row for each class) or [image, height, width, channel]
    (in reading order, `columns` a row), of any range. Raises ValueError for another shape and for no image.
    """
    images = np.asarray(images)
    if images.ndim not in (4, 5) or not images.size:
        raise ValueError(
            f"sheet: images of shape {images.shape}; expected [image, height, width, channel] or "
            "[class, sample, height, width, channel], at least one image"
        )
    columns = images.shape[1] if images.ndim == 5 else min(columns, len(images))
    (tiles,) = _displayable(images.reshape(-1, *images.shape[-3:]))
    with open_figure(path) as figure:
        panel = _canvas(figure, _PITCH * columns, _PITCH * math.ceil(len(tiles) / columns))
        for index, tile in enumerate(tiles):
            _tile(panel, tile, _PITCH * (index % columns), _PITCH * (index // columns))
    return Path(path)


@contextmanager
def open_figure(path: str | os.PathLike[str], *, width: float = 1.0, height: float = 1.0) -> Iterator[Any]:
    """Open a figure of `width` x `height` inches in the house style, written whole to `path` on exit."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        figure.savefig(partial, format=path.suffix.lstrip(".") or "png")
        os.replace(partial, path)


def _whisker(value: tuple[float, ...]) -> tuple[float, float]:
    """Return the lengths of the whisker of `bars` below and above the value."""
    if len(value) == 2:
        return value[1], value[1]
    return value[0] - value[1], value[2] - value[0]


def _finite(record: Record, name: str) -> bool:
    value = record.get(name)
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _positive(record: Record, name: str) -> bool:
    return _finite(record, name) and record[name] > 0


def _series(
    records: Iterable[Record], name: str, split: str | None, scale: float, against: str = "step"
) -> tuple[np.ndarray, np.ndarray]:
    """Select a metric of a split (None: of all) in the order of `against`; the last of equal steps counts."""
    values = {
        record[against]: record[name] * scale
        for record in records
        if (split is None or record.get("split", "train") == split)
        and _finite(record, against)
        and _finite(record, name)
    }
    steps = sorted(values)
    return np.asarray(steps, float), np.asarray([values[step] for step in steps], float)


def _draw_training(panel: Any, steps: np.ndarray, values: np.ndarray) -> None:
    window = len(values) // 25
    if window < 2:
        panel.plot(steps, values, color=PALETTE[0], label="training", marker="o" if len(steps) < 2 else None)
        return
    panel.plot(steps, values, color=PALETTE[0], alpha=0.25, linewidth=0.8)
    # Dividing by the window's real size keeps the running mean unbiased at both ends.
    kernel = np.ones(2 * window + 1)
    mean = np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
    panel.plot(steps, mean, color=PALETTE[0], label="training")


def _draw_validation(panel: Any, steps: np.ndarray, values: np.ndarray) -> None:
    if len(steps):
        panel.plot(steps, values, color=PALETTE[1], marker="o", label="validation")


def _by_seed(records: Iterable[Record], name: str, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Select steps [step] and validations by seed [step, seed]; nothing if there is a single seed."""
    by_step = {
        record["step"]: np.asarray(record[f"{name}_by_seed"], float)  # null is NaN
        for record in records
        if record.get("split") == "validation" and record.get(f"{name}_by_seed")
    }
    steps = sorted(by_step)
    return np.asarray(steps, float), scale * np.asarray([by_step[step] for step in steps])


def draw_band(
    panel: Any, x: np.ndarray, values: np.ndarray, *, color: str, of: str, most: float, least: float = 0.0
) -> None:
    """Draw the mean +- one sample deviation of `values` [x, n] as a band, cut at what a value can be.

    The legend says of how many of what (`of`, such as "seeds") it is. Nothing is drawn for fewer than two.
    """
    if values.ndim != 2 or values.shape[1] < 2:
        return
    mean, spread = np.nanmean(values, 1), np.nanstd(values, 1, ddof=1)
    low, high = np.clip(mean - spread, least, most), np.clip(mean + spread, least, most)
    label = f"deviation over {values.shape[1]} {of}"
    panel.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0, label=label)


def _whole_steps(panel: Any) -> None:
    panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _legend_above(figure: Any, *panels: Any) -> None:
    """Add one legend for all panels, in as many columns as the figure has room for."""
    handles = {label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels())}
    if handles:
        inches = 0.5 + 0.07 * max(map(len, handles))  # of a column, at the legend's font size
        columns = max(1, min(len(handles), 6, int(figure.get_figwidth() / inches)))
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)


def _log_axis(panel: Any, axis: str, values: Sequence[float] | np.ndarray) -> None:
    """Set a log scale over at least a decade, however little the values vary."""
    panel.set_yscale("log") if axis == "y" else panel.set_xscale("log")
    low, high = (math.log10(extreme(values)) if len(values) else 0.0 for extreme in (min, max))
    spare = max(0.05 * (high - low), (1.0 - (high - low)) / 2)
    limits = 10 ** (low - spare), 10 ** (high + spare)
    panel.set_ylim(limits) if axis == "y" else panel.set_xlim(limits)


def _displayable(*sets: Any) -> list[np.ndarray]:
    """Scale image sets jointly to 0..1, as [example, height, width, 3]."""
    arrays = [np.asarray(images, np.float32) for images in sets]
    arrays = [images[..., None] if images.ndim == 3 else images for images in arrays]
    low, high = min(a.min() for a in arrays), max(a.max() for a in arrays)
    scaled = [(images - low) / max(high - low, 1e-12) for images in arrays]
    return [np.repeat(images, 3, -1) if images.shape[-1] == 1 else images[..., :3] for images in scaled]


def _canvas(figure: Any, width: float, height: float, *, left: float = 0.0, top: float = 0.0) -> Any:
    """Turn the figure into one panel without axes, in units of one image from its top left corner.

    `left` and `top` are margins for text, in inches.
    """
    cell = min(0.62, 12.0 / width)
    size = left + cell * width + 0.1, top + cell * height + 0.1
    figure.set_layout_engine("none")
    figure.set_size_inches(*size)
    box = ((left + 0.05) / size[0], 0.05 / size[1], cell * width / size[0], cell * height / size[1])
    panel = figure.add_axes(box, xlim=(0, width), ylim=(height, 0))
    panel.axis("off")
    return panel


def _tile(
    panel: Any, image: np.ndarray, x: float, y: float, color: str | None = None, line: float = 0.0
) -> None:
    from matplotlib.patches import Rectangle

    panel.imshow(image, extent=(x, x + 1, y + 1, y), interpolation="nearest", aspect="auto", zorder=1)
    if color:
        panel.add_patch(
            Rectangle((x, y), 1, 1, fill=False, edgecolor=color, linewidth=line, zorder=2, clip_on=False)
        )
