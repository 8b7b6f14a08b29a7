"""The supervised entry point: presets, held-out images, a run on images made up for it."""

import json

import numpy as np
import pytest

from experiments import supervised
from experiments.cli import parse
from experiments.errors import UsageError
from experiments.runner import start
from jmeta.data.class_dataset import ClassDataset, from_arrays
from jmeta.data.episodes import from_splits
from jmeta.data.source import DatasetInfo
from jmeta.report.paired import differences
from jmeta.report.published import published_rows, row_for


def settings(*flags):
    return parse(supervised.EXPERIMENT, ["", *flags])


def published_row(chosen):
    fields = supervised.published_row(chosen.algorithm, chosen.dataset, chosen.shrink)
    return fields and row_for(**fields)


def test_there_is_a_preset_for_each_row_of_table_5():
    rows = {published_row(settings(f"--preset={name}"))["accuracy"]["mean"]
            for name in supervised.EXPERIMENT.presets}  # fmt: skip
    assert rows == {row["accuracy"]["mean"] for row in published_rows("cl_lstm", 5)}
    assert supervised.widths("cl_vgg11", 0.35) == [22, 44, 88, 88, 176, 176, 176, 176]
    for other in (["--shrink=0.25"], ["--algorithm=vgg11", "--shrink=0.5"]):
        assert published_row(settings(*other)) is None
    assert published_row(settings("--algorithm=vgg11", "--shrink=1"))["variant"] is None


def test_held_out_images_are_the_last_of_each_class():
    images = ClassDataset(np.zeros((10, 2, 2, 3), np.uint8), np.array([0, 5]), np.array([5, 5]))
    train, held_out = supervised.hold_out(images, 4)
    np.testing.assert_array_equal(train.counts, [3, 3])
    np.testing.assert_array_equal(held_out.offsets, [3, 8])
    np.testing.assert_array_equal(held_out.counts, [2, 2])
    assert supervised.hold_out(images, 0) == (images, None)
    for number in (3, 10, -2):
        with pytest.raises(UsageError, match=f"--held_out={number}"):
            supervised.hold_out(images, number)


def colored_images(*args, **options):
    """Ten classes that differ in their color, 20 images each to train and 10 to test."""
    generator = np.random.default_rng(0)
    parts = {}
    for part, number in (("train", 20), ("test", 10)):
        y = np.repeat(np.arange(10), number)
        color = np.random.default_rng(1).integers(0, 200, (10, 1, 1, 3))
        x = color[y] + generator.integers(0, 50, (len(y), 32, 32, 3))
        parts[part] = from_arrays(x.astype(np.uint8), y)
    names = tuple(str(label) for label in range(10))
    return from_splits(DatasetInfo("cifar10", "", "", dict.fromkeys(parts, names), (32, 32, 3)), parts)


def test_a_run_learns_to_tell_colors(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.parts.dataset", colored_images)
    monkeypatch.setattr(supervised, "TEST_BATCH", 20)
    flags = ["--dataset=cifar10", "--algorithm=vgg11", "--shrink=0.125", "--steps=90", "--batch=16",
             "--cosine_steps=90", "--eval_every=30", "--held_out=40", f"--workdir={tmp_path}"]  # fmt: skip
    assert start(supervised.EXPERIMENT, settings(*flags)) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results["eval"]["tasks"] == 5
    assert results["eval"]["metrics"]["accuracy"]["mean"] > 0.35  # by chance 0.1
    values = np.load(tmp_path / "eval.npz")["accuracy"]
    assert values.mean() == pytest.approx(results["eval"]["metrics"]["accuracy"]["mean"])
    assert set(np.round(20 * values, 4) % 1) == {0}
    assert (tmp_path / "figures/learning_curves.png").is_file()
    assert differences(tmp_path, tmp_path).tasks == 5  # batch by batch


def test_parts_with_other_classes_are_refused():
    source = colored_images()
    assert supervised.check_classes(source) is None
    lacking = source.splits["test"]._replace(counts=np.full(9, 10), offsets=np.arange(9) * 10)
    with pytest.raises(UsageError, match="cifar10: 10 classes of training images and 9 of test images"):
        supervised.check_classes(source._replace(splits={**source.splits, "test": lacking}))
    names = {"train": source.info.classes["train"], "test": source.info.classes["train"][::-1]}
    with pytest.raises(UsageError, match="the same classes in the same order"):
        supervised.check_classes(source._replace(info=source.info._replace(classes=names)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shrink=0.01"], "--shrink=0.01; expected at least 0.0625"),
        (["--batch=0"], "--batch=0; expected at least 1"),
        (["--eval_only", "--init_from=x", "--batch=2"], "--eval_only trains nothing"),
    ],
)
def test_flags_that_cannot_be(flags, message):
    with pytest.raises(UsageError, match=message):
        start(supervised.EXPERIMENT, settings(*flags))
