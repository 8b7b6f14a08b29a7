"""The difference of two runs, task by task."""

import json

import numpy as np
import pytest

from experiments import report
from jmeta.report.paired import differences, differences_table

RNG = np.random.default_rng(0)
DIFFICULTY = RNG.uniform(0.2, 0.8, 400)


def write_run(folder, accuracy, *, algorithm="comln", flags=None, **tasks):
    """A finished run; `tasks` decide the test tasks, `flags` do not."""
    folder.mkdir(parents=True)
    tasks = {"dataset": "omniglot", "way": 5, "query": 15, "split": "lake: by alphabets"} | tasks
    tasks = {"shape": [28, 28, 1], "classes": ["a", "b"], "data_dir": None} | tasks
    config = {"flags": flags or {}, "identity": {}, "tasks": tasks}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps({"algorithm": algorithm}))
    np.savez(folder / "eval.npz", accuracy=accuracy, loss=1 - np.asarray(accuracy))
    return folder


@pytest.fixture
def runs(tmp_path):
    noise = RNG.normal(0, 0.02, (2, 400))
    write_run(tmp_path / "better", DIFFICULTY + 0.05 + noise[0])
    write_run(tmp_path / "base", DIFFICULTY + noise[1])
    write_run(tmp_path / "seeds", np.stack([DIFFICULTY + 0.1, DIFFICULTY + 0.3], axis=1))
    write_run(tmp_path / "ten_way", DIFFICULTY, way=10)
    (tmp_path / "started").mkdir()
    (tmp_path / "started/config.json").write_text('{"identity": {}}')
    return tmp_path


def test_the_interval_is_that_of_the_differences_on_the_same_tasks(runs):
    tasks, metrics = differences(runs / "better", runs / "base")
    assert tasks == 400 and set(metrics) == {"accuracy", "loss"}
    assert metrics["accuracy"].mean == pytest.approx(5, abs=0.3)
    # Far below the 2.4 points that two independent samples of tasks would leave.
    assert metrics["accuracy"].ci95 == pytest.approx(196 * 0.02 * np.sqrt(2 / 400), rel=0.15)
    assert metrics["loss"].mean == pytest.approx(-metrics["accuracy"].mean / 100)


def test_several_seeds_count_with_their_mean(runs):
    _, metrics = differences(runs / "seeds", runs / "base")
    assert metrics["accuracy"].mean == pytest.approx(20, abs=0.3)


def test_runs_on_other_tasks_are_not_compared(runs):
    with pytest.raises(ValueError, match="way 10 instead of 5"):
        differences(runs / "ten_way", runs / "base")
    with pytest.raises(ValueError, match="not finished"):
        differences(runs / "started", runs / "base")
    stream = {"identity": {}, "tasks": None}
    (runs / "base/config.json").write_text(json.dumps(stream))
    with pytest.raises(ValueError, match="stream"):
        differences(runs / "better", runs / "base")
    (runs / "base/config.json").write_text(json.dumps({"identity": {}}))
    with pytest.raises(ValueError, match="does not say on which tasks"):
        differences(runs / "better", runs / "base")


@pytest.mark.parametrize(
    ("tasks", "others", "name"),
    [({"subtask_shot": 5}, {"subtask_shot": 3}, "subtask_shot 5"),
     ({"slots": 20}, {"slots": 30}, "slots 20"),
     ({"presentations": 10}, {"presentations": 5}, "presentations 10"),
     ({"data_dir": "/one"}, {"data_dir": "/other"}, "data_dir /one"),
     ({"classes": ("a", "b")}, {"classes": ("a", "c")}, "classes"),
     ({"query": 15}, {"query": 5}, "query 15")],
)  # fmt: skip
def test_whatever_decides_the_test_tasks_counts(tmp_path, tasks, others, name):
    write_run(tmp_path / "one", DIFFICULTY, **tasks)
    write_run(tmp_path / "other", DIFFICULTY, **others)
    with pytest.raises(ValueError, match=f"other tasks, with {name}"):
        differences(tmp_path / "one", tmp_path / "other")


def test_what_concerns_training_alone_does_not_count(tmp_path):
    rotated, plain = ({"rotations": True, "query": 5}, {"rotations": False, "query": 3})
    write_run(tmp_path / "one", DIFFICULTY + 0.01, flags=rotated)
    write_run(tmp_path / "other", DIFFICULTY, flags=plain)
    assert differences(tmp_path / "one", tmp_path / "other").metrics["accuracy"].mean == pytest.approx(1)


def test_batches_of_the_whole_test_set_are_tasks(tmp_path):
    for name, value in (("resnet20", 0.1), ("cl_resnet20", 0.0)):
        write_run(tmp_path / name, DIFFICULTY + value, algorithm=name, way=None)
    metrics = differences(tmp_path / "resnet20", tmp_path / "cl_resnet20").metrics
    assert metrics["accuracy"].mean == pytest.approx(10) and set(metrics) == {"accuracy"}


def test_of_more_tasks_those_that_both_runs_have_count(tmp_path):
    write_run(tmp_path / "short", DIFFICULTY[:100] + 0.1)
    write_run(tmp_path / "long", np.concatenate([DIFFICULTY[:100], DIFFICULTY[100:] + 0.7]))
    tasks, metrics = differences(tmp_path / "short", tmp_path / "long")
    assert tasks == 100 and metrics["accuracy"].mean == pytest.approx(10)
    text = differences_table([tmp_path / "short"], tmp_path / "long")
    assert "| test tasks | 100 |" in text and "training seed" in text


def test_losses_of_two_algorithms_are_not_subtracted(tmp_path):
    write_run(tmp_path / "opn", DIFFICULTY, algorithm="opn")
    write_run(tmp_path / "cl_lstm", DIFFICULTY, algorithm="cl_lstm")
    assert set(differences(tmp_path / "opn", tmp_path / "cl_lstm").metrics) == {"accuracy"}
    write_run(tmp_path / "again", DIFFICULTY, algorithm="opn")
    assert set(differences(tmp_path / "again", tmp_path / "opn").metrics) == {"accuracy", "loss"}


def test_the_table_names_what_it_leaves_out(runs):
    text = differences_table(sorted(runs.iterdir()), runs / "base")
    head = next(line for line in text.splitlines() if line.startswith("| metric"))
    assert "better" in head and "seeds" in head and "base" not in head and "ten_way" not in head
    assert "ten_way`: tested on other tasks" in text and "started`: not finished" in text
    assert "| accuracy | +5." in text or "| accuracy | +4." in text


def test_the_report_subtracts_a_run(runs, capsys):
    argv = ["report", f"--workdirs={runs}", f"--output={runs / 'out'}"]
    assert report.main([*argv, f"--against={runs / 'base'}"]) == 0
    assert "## Difference to" in capsys.readouterr().out
    assert report.main([*argv, f"--against={runs / 'started'}"]) == 2
    error = capsys.readouterr().err.strip()
    assert "not finished" in error and "\n" not in error
