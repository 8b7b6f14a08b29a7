"""Figures: decoded again, of the expected size, with the expected things drawn on them."""

import numpy as np
import pytest
from PIL import Image

from jmeta.report import figures

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def decode(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def count(pixels, color, within=0):
    return int((abs(pixels.astype(int) - color) <= within).all(-1).sum())


def log(steps, validation_every=None):
    records = [
        {
            "step": s,
            "split": "train",
            "loss": 2 / (1 + s),
            "accuracy": 1 - 1 / (1 + s),
            "learned/horizon": 1.0 + s,
        }
        for s in range(1, steps + 1)
    ]
    if validation_every:
        records += [
            {"step": s, "split": "validation", "loss": 2.5 / (1 + s), "accuracy": 0.5}
            for s in range(validation_every, steps + 1, validation_every)
        ]
    return records


def test_learning_curves_draw_both_splits_and_one_panel_for_each_metric(tmp_path):
    both = decode(figures.learning_curves(log(200, 50), tmp_path / "both.png"))
    assert both.shape == (432, 1152, 3)
    assert count(both, BLUE) > 500 and count(both, ORANGE) > 500
    half = both.shape[1] // 2
    assert count(both[:, half:], ORANGE) > 200 and count(both[:, :half], ORANGE) > 200

    loss = [{"step": r["step"], "loss": r["loss"]} for r in log(20)]
    alone = decode(figures.learning_curves(loss, tmp_path / "loss.png"))
    assert alone.shape == (432, 576, 3)
    assert count(alone, BLUE) > 200 and count(alone, ORANGE) == 0


def test_a_loss_that_is_the_squared_error_has_no_panel_of_its_own(tmp_path):
    records = [{"step": s, "loss": 1 / s, "squared_error": 1 / s} for s in (1, 2, 3)]
    assert decode(figures.learning_curves(records, tmp_path / "same.png")).shape == (432, 576, 3)
    records[0]["loss"] = 2.0
    assert decode(figures.learning_curves(records, tmp_path / "other.png")).shape == (432, 1152, 3)


def test_seeds_are_a_band_that_ends_where_an_accuracy_does(tmp_path):
    records = [
        {"step": s, "split": "validation", "accuracy": 0.9, "accuracy_by_seed": [1.0, 0.8, None]}
        for s in (1, 2)
    ]
    drawn = figures.learning_curves(records, tmp_path / "seeds.svg").read_text()
    assert ">deviation over 3 seeds<" in drawn
    seeds = np.array([[98.0, 90.0], [99.0, 1.0]])

    class Panel:
        def fill_between(self, x, low, high, **style):
            self.low, self.high = low, high

    panel = Panel()
    figures.draw_band(panel, np.array([1.0, 2.0]), seeds, color=figures.PALETTE[0], of="seeds", most=100.0)
    spread = np.std([98.0, 90.0], ddof=1)
    np.testing.assert_allclose(panel.high, [94 + spread, 100.0])
    np.testing.assert_allclose(panel.low, [94 - spread, 0.0])


def test_a_regression_shows_the_target_the_support_set_and_each_step(tmp_path):
    x = np.linspace(-5, 5, 50)[::-1, None]
    curves = {"before": (x, 0 * x), "after 1 step": (x, 0.5 * np.sin(x))}
    support = x[::10], np.sin(x[::10])
    drawn = figures.regression_fit(curves, support, (x, np.sin(x)), tmp_path / "fit.svg").read_text()
    assert all(f">{name}<" in drawn for name in ("target", "before", "after 1 step", "support"))


@pytest.mark.parametrize(
    "records",
    [[], [{"step": 3}], [{"loss": 1.0}], [{"step": 1, "loss": float("nan")}, {"step": 2, "accuracy": None}]],
)
def test_missing_and_not_finite_records_leave_gaps(records, tmp_path):
    assert decode(figures.learning_curves(records, tmp_path / "a.png")).std() > 5
    assert decode(figures.horizon_curve(records, tmp_path / "b.png")).std() > 5


def test_horizon_curve_rises_with_the_horizon(tmp_path):
    pixels = decode(figures.horizon_curve(log(100), tmp_path / "horizon.png"))
    assert pixels.shape == (432, 608, 3)
    rows, columns = np.nonzero((pixels == np.array(BLUE)).all(-1))
    assert np.corrcoef(rows, columns)[0, 1] < -0.8


def test_scaling_marks_a_curve_that_stops_short(tmp_path):
    def curve(last):
        return [{"horizon": 10.0**k, "seconds": 1e-3, "bytes": 1e6} for k in range(-2, last + 1)]

    full = decode(figures.scaling({"a": curve(6), "b": curve(6)}, tmp_path / "full.png"))
    short = decode(figures.scaling({"a": curve(6), "b": curve(2)}, tmp_path / "short.png"))
    assert full.shape == short.shape == (528, 1152, 3)
    assert count(full, BLUE) < count(short, BLUE)  # the second curve no longer covers the first
    assert count(short, ORANGE) > 300
    empty = decode(figures.scaling({"a": [], "b": [{"horizon": 1.0}]}, tmp_path / "empty.png"))
    assert empty.shape == full.shape


def episode(tmp_path, predictions, labels, **kwargs):
    ways = np.arange(5)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(len(labels), 14, 14, 1))
    support = rng.normal(size=(5, 14, 14, 1))
    return decode(
        figures.episode(support, ways, images, labels, predictions, tmp_path / "episode.png", **kwargs)
    )


def test_episode_frames_right_and_wrong_predictions(tmp_path):
    labels = np.repeat(np.arange(5), 3)
    right = episode(tmp_path, labels, labels)
    assert count(right, ORANGE) == 0 and count(right, BLUE, within=60) > 500
    one_wrong = labels.copy()
    one_wrong[4] = 0
    wrong = episode(tmp_path, one_wrong, labels)
    assert wrong.shape == right.shape
    rows, columns = np.nonzero((wrong == np.array(ORANGE)).all(-1))
    height, width = wrong.shape[:2]
    # Example 4 is a query image of way 1: framed in the second of five rows, right of the support.
    assert rows.min() / height > 0.2 and rows.max() / height < 0.5
    assert columns.min() / width > 0.3


def test_episode_leaves_out_padding_and_limits_columns(tmp_path):
    labels = np.repeat(np.arange(5), 8)
    wide = episode(tmp_path, labels, labels)
    narrow = episode(tmp_path, labels, labels, columns=4)
    padded = np.where(np.arange(40) % 8 < 4, labels, -1)
    assert narrow.shape[1] < wide.shape[1]
    assert episode(tmp_path, labels, padded).shape == narrow.shape


def test_sheet_shows_every_image_once(tmp_path):
    images = np.zeros((3, 4, 8, 8, 1), np.uint8)
    images[..., 2:6, 2:6, :] = 255
    by_class = decode(figures.sheet(images, tmp_path / "classes.png"))
    black = (by_class == 0).all(-1).mean()
    assert 0.4 < black < 0.75  # three quarters of twelve tiles, with gaps between them
    flat = decode(figures.sheet(images.reshape(12, 8, 8, 1), tmp_path / "flat.png", columns=4))
    np.testing.assert_array_equal(flat, by_class)
    with pytest.raises(ValueError, match=r"images of shape \(8, 8\); expected \[image, height"):
        figures.sheet(np.zeros((8, 8)), tmp_path / "no.png")


def test_figures_are_written_whole_into_a_new_folder(tmp_path):
    path = figures.horizon_curve(log(5), tmp_path / "deep" / "figures" / "horizon.png")
    assert [file.name for file in path.parent.iterdir()] == ["horizon.png"]
    import matplotlib

    assert matplotlib.rcParams["axes.grid"] == matplotlib.rcParamsDefault["axes.grid"]


def test_bars_are_as_high_as_their_values(tmp_path):
    pixels = decode(figures.bars({"one": (1.0, 0.05), "two": (2.0, 0.05)}, tmp_path / "b.png", label="error"))
    low, high = count(pixels, BLUE), count(pixels, ORANGE)
    assert low > 1000 and 1.8 < high / low < 2.2


def test_whiskers_reach_from_the_least_to_the_greatest(tmp_path):
    even = figures.bars({"one": (1.0, 0.2)}, tmp_path / "even.png", label="seconds").read_bytes()
    ends = figures.bars({"one": (1.0, 0.8, 1.2)}, tmp_path / "ends.png", label="seconds").read_bytes()
    far = figures.bars({"one": (1.0, 0.8, 2.0)}, tmp_path / "far.png", label="seconds").read_bytes()
    assert even == ends != far


def test_a_scatter_has_a_panel_for_each_title_and_a_point_for_each_name(tmp_path):
    points = {"a": (10.0, 50.0, 1.0), "b": (30.0, 60.0, 2.0)}
    labels = {"x_label": "seconds", "y_label": "accuracy (%)"}
    both = decode(figures.scatter({"1-shot": points}, tmp_path / "both.png", **labels))
    one = {"1-shot": points, "5-shot": {"a": (10.0, 50.0, 1.0)}}
    two = decode(figures.scatter(one, tmp_path / "two.png", **labels))
    assert two.shape[1] > 1.5 * both.shape[1]
    assert count(both, BLUE) > 50 and count(both, ORANGE) > 50
    assert count(two, BLUE) > 1.2 * count(both, BLUE) and count(two, ORANGE) < 1.2 * count(both, ORANGE)


def test_a_sweep_has_a_panel_for_each_title_and_a_level_for_one_point(tmp_path):
    curves = {"a": [(1, 2.0, 0.1), (2, 1.0, 0.1)], "b": [(0, 1.5, 0.2)]}
    one = decode(figures.sweep({"T = 1": curves}, tmp_path / "one.png", x_label="layers", y_label="error"))
    two = decode(
        figures.sweep({"T = 1": curves, "T = 5": curves}, tmp_path / "two.png", x_label="layers", y_label="e")
    )
    assert two.shape[1] > 1.5 * one.shape[1]
    assert count(one, BLUE) > 100 and count(one, ORANGE) > 100 and count(two, BLUE) > 1.5 * count(one, BLUE)
