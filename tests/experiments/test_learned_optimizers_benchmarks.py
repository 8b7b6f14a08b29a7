"""The benchmarks of the learned optimizers at their smallest."""

import json

import pytest

from experiments.benchmarks import learned_optimizers_time, seeds
from experiments.cli import parse
from experiments.errors import UsageError
from jmeta.report.published import in_fractions, row_for


def run_time(*arguments):
    return learned_optimizers_time.main(parse(learned_optimizers_time.EXPERIMENT, ["", *arguments]))


@pytest.mark.slow
def test_steps_are_timed_and_drawn(tmp_path, capsys):
    small = ["--dataset=sinusoid", "--algorithms=fomaml,meta_lstm", "--query=3", "--filters=4"]
    assert run_time(*small, "--rounds=2", "--steps=2", f"--output={tmp_path}") == 0
    report = json.loads((tmp_path / "time.json").read_text())
    assert {name: len(values) for name, values in report["seconds_per_task"].items()} == {
        "fomaml": 2, "meta_lstm": 2
    }  # fmt: skip
    assert capsys.readouterr().out.count("ms a task") == 2
    assert (tmp_path / "time.png").stat().st_size > 5000


def test_finished_runs_are_drawn_against_their_accuracy(tmp_path, capsys):
    row = row_for("cub", "TURTLE", "conv4", 5, 1, paper="turtle")
    accuracy = {"mean": 0.5, "median": 0.5, "ci95": 0.01, "unit": "fraction"}
    for name, steps in (("turtle", 4), ("maml", 3)):
        workdir = tmp_path / f"table3_1_cub_1shot_{name}"
        workdir.mkdir()
        metrics = {"accuracy": accuracy | {"mean": 0.4, "of_medians": accuracy}}
        results = {"steps": steps, "published": in_fractions(row), "eval": {"metrics": metrics}}
        (workdir / "results.json").write_text(json.dumps(results))
        (workdir / "config.json").write_text('{"steps": 4}')
        (workdir / "seconds.json").write_text('{"seconds": 120.5}')
    assert run_time(f"--results={tmp_path}", f"--output={tmp_path / 'out'}") == 0
    report = json.loads((tmp_path / "out" / "runs.json").read_text())
    assert report == {"cub 1-shot": {"TURTLE": [120.5, 50.0, 1.0]}}
    assert (tmp_path / "out" / "runs.png").stat().st_size > 5000
    (tmp_path / "table3_1_cub_1shot_turtle" / "seconds.json").unlink()
    with pytest.raises(UsageError, match="has no seconds.json"):
        run_time(f"--results={tmp_path}", f"--output={tmp_path / 'out'}")
    with pytest.raises(UsageError, match="no finished table3_1"):
        run_time(f"--results={tmp_path / 'out'}", f"--output={tmp_path / 'out'}")
    with pytest.raises(UsageError, match="times nothing"):
        run_time("--results=x", "--shot=5")


@pytest.mark.slow
def test_a_command_with_seeds_is_timed(tmp_path):
    small = ["--num_seeds=2", "--inner_steps=1", "--filters=4"]
    whole, training = seeds.timed("fomaml", 2, str(tmp_path / "run"), *small)
    assert 0 < training < whole
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["eval"]["seeds"]["squared_error"]) == 2


def test_seeds_together_are_set_against_seeds_one_by_one(monkeypatch, tmp_path):
    """Two seeds one by one take 2 x 3 seconds, 2 x 1 of them of training; together 4 and 1."""
    asked = []

    def timed(algorithm, steps, workdir, argument):
        asked.append((algorithm, steps, argument))
        return (4.0, 1.0) if argument == "--num_seeds=2" else (3.0, 1.0)

    monkeypatch.setattr(seeds, "timed", timed)
    flags = ["", "--num_seeds=2", "--steps=2", "--algorithms=maml", f"--output={tmp_path / 'seeds.json'}"]
    assert seeds.main(parse(seeds.EXPERIMENT, flags)) == 0
    assert asked == [("maml", 2, "--num_seeds=2"), ("maml", 2, "--seed=0"), ("maml", 2, "--seed=1")]
    assert json.loads((tmp_path / "seeds.json").read_text())["rows"]["maml"]["gain"] == [1.5, 2.0]
