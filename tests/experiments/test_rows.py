"""Whole tables: rows that start from other rows, flags that some rows do not have, the paper's statistic."""

import json
from types import SimpleNamespace

import pytest

from experiments import learned_optimizers
from experiments.benchmarks import rows
from jmeta.report.published import row_for

TINY = (
    "--dataset=glyphs --way=3 --query=2 --filters=4 --steps=2 --eval_every=2 --validation_tasks=4 "
    "--eval_tasks=4 --num_seeds=2 --hidden_units=4 --inner_steps=2 --padded"
)


@pytest.mark.slow
def test_a_row_is_tested_from_the_row_it_names(run_experiment, tmp_path):
    """On glyphs for either data set; the row from the other data set has nothing to start from."""
    arguments = ["--experiment=learned_optimizers", "--presets=table3_*mini_imagenet*_1shot_meta_lstm"]
    done = run_experiment("benchmarks.rows", *arguments, f"--flags={TINY}", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    trained, tested = (
        "table3_1_mini_imagenet_1shot_meta_lstm",
        "table3_4_mini_imagenet_to_cub_1shot_meta_lstm",
    )
    found = json.loads((tmp_path / "rows.json").read_text())
    assert list(found) == [trained, tested] and [found[name]["steps"] for name in found] == [2, 0]
    assert "starts from table3_1_cub_1shot_meta_lstm, which is not finished" in done.stderr
    assert f"{tested}: without --steps=2, --eval_only trains nothing" in done.stderr
    results = json.loads((tmp_path / trained / "results.json").read_text())
    of_medians = results["eval"]["seeds"]["accuracy"]["of_medians"]
    assert found[trained]["metrics"]["accuracy"]["mean"] == pytest.approx(100 * of_medians["mean"])
    for name in found:  # the same parameters on the same test tasks
        assert json.loads((tmp_path / name / "results.json").read_text())["eval"] == results["eval"]
        assert rows.seconds(tmp_path / name) > found[name]["seconds"]


def test_flags_without_a_meaning_for_a_row_are_left_out(capsys):
    experiment = learned_optimizers.EXPERIMENT
    flags = ["--rotations", "--learning_rate=0.1", "--noaugment", "--way=3", "--backbone=resnet12",
             "--drop_block=0.1"]  # fmt: skip
    with pytest.raises(Exception, match="noaugment"):
        rows.meant(experiment, "table3_1_cub_1shot_turtle", flags)
    flags.remove("--noaugment")
    assert rows.meant(experiment, "table3_1_cub_1shot_turtle", flags) == flags
    left = rows.meant(experiment, "table3_1_cub_1shot_scratch", [*flags, "--norotations"])
    assert left == ["--way=3", "--backbone=resnet12", "--drop_block=0.1"]
    assert "without --norotations" in capsys.readouterr().err


def test_a_run_is_finished_with_all_its_steps(tmp_path):
    assert not rows.is_finished(tmp_path)
    for steps, planned, finished in ((3, 5, False), (5, 5, True), (0, 0, True)):
        (tmp_path / "results.json").write_text(json.dumps({"steps": steps}))
        (tmp_path / "config.json").write_text(json.dumps({"steps": planned}))
        assert rows.is_finished(tmp_path) == finished


def test_rows_are_in_the_papers_unit_and_statistic():
    of_tasks, of_medians = {"mean": 0.47, "median": 0.47, "ci95": 0.01}, {"mean": 0.475, "ci95": 0.02}
    results = {
        "experiment": "learned_optimizers", "steps": 3, "train": {"seconds": 1.0},
        "published": row_for("cub", "TURTLE", "conv4", 5, 1, paper="turtle"),
        "eval": {"metrics": {"loss": of_tasks | {"mean": "nan"}, "accuracy": of_tasks},
                 "seeds": {"loss": {"of_medians": {"mean": "nan", "ci95": 1.0}},
                           "accuracy": {"of_medians": of_medians}}},
    }  # fmt: skip
    row = rows.row_of(results)
    assert row["metrics"] == {"accuracy": pytest.approx({"mean": 47.5, "ci95": 2.0})}
    assert rows.shown(row["metrics"]) == "accuracy 47.5 +- 2"
    assert rows.shown(row["published"]) == "accuracy 53 +- 0"


@pytest.mark.parametrize("algorithm", ["turtle", "scratch"])
def test_rows_of_table_3_4_know_their_published_rows(algorithm, tmp_path):
    presets = learned_optimizers.EXPERIMENT.presets
    name = f"table3_4_mini_imagenet_to_cub_5shot_{algorithm}"
    (tmp_path / "config.json").write_text('{"flags": {"dataset": "mini_imagenet"}}')
    settings = {"eval_only": False} | presets[name] | {"preset": name, "init_from": str(tmp_path)}
    origin = learned_optimizers.trained_elsewhere(SimpleNamespace(**settings))
    row = row_for(
        "cub",
        learned_optimizers.PAPER_NAMES[algorithm],
        "conv4",
        5,
        5,
        paper="turtle",
        variant=f"from {origin}",
    )
    assert row is not None and (row["table"], row["variant"]) == ("3.4", "from mini_imagenet")
    assert presets[name].get("init_from") == (
        None if algorithm == "scratch" else "table3_1_mini_imagenet_5shot_turtle"
    )
    same = settings | {"dataset": "mini_imagenet", "preset": name.replace("3_4", "3_1")}
    assert learned_optimizers.trained_elsewhere(SimpleNamespace(**same)) is None
