"""The difference of two runs, task by task."""

import json

import numpy as np
import pytest

from experiments import report
from jmeta.report.paired import differences, differences_table

RNG = np.random.default_rng(0)
DIFFICULTY = RNG.uniform(0.2, 0.8, 400)


def write_run(folder, accuracy, **identity):
    folder.mkdir(parents=True)
    tasks = {"dataset": "omniglot", "way": 5, "eval_tasks": 400} | identity
    (folder / "config.json").write_text(json.dumps({"flags": {}, "identity": tasks}))
    np.savez(folder / "eval.npz", accuracy=accuracy, loss=1 - np.asarray(accuracy))
    return folder


@pytest.fixture
def runs(tmp_path):
    noise = RNG.normal(0, 0.02, (2, 400))
    write_run(tmp_path / "better", DIFFICULTY + 0.05 + noise[0])
    write_run(tmp_path / "base", DIFFICULTY + noise[1])
    write_run(tmp_path / "seeds", np.stack([DIFFICULTY + 0.1, DIFFICULTY + 0.3], axis=1))
    write_run(tmp_path / "ten_way", DIFFICULTY, way=10)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.json").write_text('{"identity": {}}')
    return tmp_path


def test_the_interval_is_that_of_the_differences_on_the_same_tasks(runs):
    found = differences(runs / "better", runs / "base")
    assert set(found) == {"accuracy", "loss"}
    assert found["accuracy"].mean == pytest.approx(5, abs=0.3)
    # Far below the 2.4 points that two independent samples of tasks would leave.
    assert found["accuracy"].ci95 == pytest.approx(196 * 0.02 * np.sqrt(2 / 400), rel=0.15)
    assert found["loss"].mean == pytest.approx(-found["accuracy"].mean / 100)


def test_seeds_side_by_side_count_with_their_mean(runs):
    found = differences(runs / "seeds", runs / "base")
    assert found["accuracy"].mean == pytest.approx(20, abs=0.3)


def test_runs_on_other_tasks_are_not_compared(runs):
    with pytest.raises(ValueError, match="way 10 instead of 5"):
        differences(runs / "ten_way", runs / "base")
    with pytest.raises(ValueError, match="not finished"):
        differences(runs / "begun", runs / "base")
    (runs / "base/config.json").write_text('{"identity": {"dataset": "mnist_rotations"}}')
    with pytest.raises(ValueError, match="stream"):
        differences(runs / "better", runs / "base")


def test_the_table_names_what_it_leaves_out(runs):
    text = differences_table(sorted(runs.iterdir()), runs / "base")
    head = next(line for line in text.splitlines() if line.startswith("| metric"))
    assert "better" in head and "seeds" in head and "base" not in head and "ten_way" not in head
    assert "ten_way`: tested on other tasks" in text and "begun`: not finished" in text
    assert "| accuracy | +5." in text or "| accuracy | +4." in text


def test_the_report_subtracts_a_run(runs, capsys):
    argv = ["report", f"--workdirs={runs}", f"--output={runs / 'out'}"]
    assert report.main([*argv, f"--against={runs / 'base'}"]) == 0
    assert "## Difference to" in capsys.readouterr().out
    assert report.main([*argv, f"--against={runs / 'begun'}"]) == 2
    error = capsys.readouterr().err.strip()
    assert "not finished" in error and "\n" not in error
