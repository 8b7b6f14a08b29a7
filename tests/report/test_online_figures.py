"""Figures 3 and 4 of the continual few-shot comparison, from the results of runs."""

import pytest
from word_helpers import words

from jmeta.report import online_figures
from jmeta.report.table import StoredRun
from jmeta.report.words import distinguishing_names


def continual_run(algorithm, subtasks, accuracy, **settings):
    names = ["accuracy", *(f"accuracy_subtask_{number}" for number in range(1, subtasks + 1))]
    metrics = {name: {"mean": accuracy, "ci95": 0.01} for name in names}
    results = {"algorithm": algorithm, "eval": {"metrics": metrics}}
    config = {"words": words(**{"subtasks": subtasks, "image_size": 14, **settings})}
    return StoredRun("", "finished", 1, results, config)


def names_of(runs):
    algorithms = [run.results["algorithm"] for run in runs]
    return distinguishing_names(algorithms, [run.words for run in runs], besides=["subtasks"])


def test_continual_learners_have_a_line_over_the_lengths_and_one_over_the_subtasks(tmp_path):
    runs = [continual_run("oml", 5, 0.5), continual_run("oml", 10, 0.4), continual_run("cl_lstm", 5, 0.6)]
    lengths = online_figures.accuracy_against_length(
        runs, names_of(runs), tmp_path / "lengths.svg"
    ).read_text()
    assert ">oml<" in lengths and ">cl_lstm<" in lengths and ">subtasks<" in lengths
    places = online_figures.accuracy_against_subtask(
        runs, names_of(runs), tmp_path / "places.svg"
    ).read_text()
    assert places.index(">5 subtasks<") < places.index(">10 subtasks<")


def test_runs_of_one_length_are_one_point():
    points = [(5.0, 50.0, 1.0), (10.0, 30.0, 1.0), (5.0, 54.0, 1.0)]
    five, ten = online_figures._merged(points)
    assert five[:2] == (5.0, 52.0) and five[2] == pytest.approx(1.96 * 2)
    assert ten == points[1]


def test_runs_of_other_settings_have_lines_of_their_own(tmp_path):
    runs = [
        continual_run("cl_lstm", 5, 0.6, seed=0, inject="first"),
        continual_run("cl_lstm", 5, 0.7, seed=1, inject="first"),
        continual_run("cl_lstm", 10, 0.5, inject="lstm"),
        continual_run("oml", 5, 0.5, inject="first", image_size=None, filters=32),
    ]
    first, lstm = "cl_lstm, 14x14, labels to first", "cl_lstm, 14x14, labels to lstm"
    assert names_of(runs) == [first, first, lstm, "oml, default image size"]
    assert names_of(runs[:2]) == ["cl_lstm", "cl_lstm"]
    for draw in (online_figures.accuracy_against_length, online_figures.accuracy_against_subtask):
        drawn = draw(runs, names_of(runs), tmp_path / "lines.svg").read_text()
        assert all(drawn.count(f">{name}<") == 1 for name in (first, lstm, "oml, default image size"))
