"""The report on synthetic workdirs: finished, unfinished and damaged."""

import csv
import io
import json
import subprocess
import sys

import pytest
from word_helpers import words

from experiments import report
from jmeta.report.published import in_fractions, row_for
from jmeta.report.table import collect_runs, compare_with_paper, find_workdirs, to_csv, to_markdown
from jmeta.report.units import unit_of


def write_run(folder, results=None, *, steps=2000, logged=0, words=(), **facts):
    folder.mkdir(parents=True)
    config = {"steps": steps, "run": {"backbone": "conv4", **facts}, "words": words}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [json.dumps({"step": s, "split": "train", "loss": 1.0}) for s in range(50, logged + 1, 50)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 99']))
    if results is not None:
        text = results if isinstance(results, str) else json.dumps(results)
        (folder / "results.json").write_text(text)
    return folder


def results_of(mean, ci95, published, *, steps=2000, metric="accuracy", **fields):
    return {
        "experiment": "comln", "algorithm": "comln", "preset": None, "dataset": "mini_imagenet",
        "way": 5, "shot": 1, "seed": 0, "steps": steps,
        "train": {"seconds": 1.0, "compile_seconds": 1.0, "tasks_per_second": 80.0},
        "eval": {"split": "test", "tasks": 1000, "norm": "batch", "seeds": None,
                 "metrics": {metric: {"mean": mean, "median": mean, "ci95": ci95, "unit": unit_of(metric)}}},
        "learned": {}, "published": published and in_fractions(published), **fields,
    }  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    row = row_for("mini_imagenet", "comln", "conv4", 5, 1)
    write_run(tmp_path / "runs/comln/good", results_of(0.5251, 0.0061, row))
    write_run(tmp_path / "runs/comln/going", logged=350, dataset="mini_imagenet")
    write_run(tmp_path / "runs/comln/new")
    write_run(tmp_path / "runs/comln/torn", '{"experiment": "comln", "eval"', logged=2000)
    write_run(tmp_path / "runs/comln/hollow", results_of(float("nan"), 0.0, None))
    write_run(
        tmp_path / "runs/maml/sine",
        results_of(0.25, 0.01, None, metric="squared_error", dataset="sinusoid", steps=900, algorithm="maml"),
    )
    (tmp_path / "runs/notes").mkdir()
    return tmp_path / "runs"


def by_name(runs):
    return {run.workdir.rsplit("/", 1)[1]: run for run in collect_runs(find_workdirs([str(runs)]))}


def test_comparison_is_in_percent_with_the_interval_of_the_difference(runs):
    record = compare_with_paper(by_name(runs)["good"])
    assert record["mean"] == pytest.approx(52.51) and record["ci95"] == pytest.approx(0.61)
    assert (record["paper"], record["table"], record["paper_mean"]) == ("comln", "2", 53.01)
    assert record["difference"] == pytest.approx(-0.50)
    assert record["difference_ci95"] == pytest.approx((0.61**2 + 0.62**2) ** 0.5)
    sine = compare_with_paper(by_name(runs)["sine"])
    assert (sine["metric"], sine["mean"], sine["paper_mean"]) == ("squared_error", 0.25, None)
    assert sine["unit"] == "squared target" and record["unit"] == "%"


def test_the_best_point_of_a_grid_on_test_data_is_marked_as_such(tmp_path):
    results = results_of(0.7, 0.1, None, metric="retained_accuracy")
    results["eval"]["selected_on"] = "test"
    write_run(tmp_path / "run", results)
    text = to_markdown(collect_runs([tmp_path / "run"]))
    assert "| retained_accuracy (%), the best of a grid on the test data | 70.00 ± 10.00 |" in text


def test_unfinished_and_damaged_runs_are_listed_as_such(runs):
    found = by_name(runs)
    assert {name: (run.status, run.step) for name, run in found.items()} == {
        "good": ("finished", 2000),
        "going": ("unfinished", 350),
        "new": ("unfinished", None),
        "torn": ("damaged", 2000),
        "hollow": ("damaged", None),
        "sine": ("finished", 900),
    }
    assert "JSONDecodeError" in found["torn"].note and "not finite" in found["hollow"].note
    text = to_markdown(list(found.values()))
    assert f"- `{runs}/comln/going`: unfinished, last logged step 350 of 2000\n" in text
    assert f"- `{runs}/comln/new`: unfinished, no step logged\n" in text
    assert f"- `{runs}/comln/torn`: damaged, last logged step 2000; results.json cannot be used" in text


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{}",
        '{"eval": {"metrics": {}}}',
        '{"eval": {"metrics": {"accuracy": {"mean": 1}}}}',
        "\udc80",
    ],
)
def test_any_damage_to_results_is_a_status(text, tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "results.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (run,) = collect_runs([folder])
    assert run.status == "damaged" and run.results == {}


def test_markdown_sets_ours_under_the_row_it_reproduces(runs):
    lines = to_markdown(list(by_name(runs).values())).splitlines()
    main = next(line for line in lines if line.startswith(f"| `{runs}/comln/good`"))
    cells = [cell.strip() for cell in main.strip("|").split("|")]
    assert cells[1:] == [
        "comln", "mini_imagenet conv4 5-way 1-shot", "batch", "2000", "accuracy (%)",
        "52.51 ± 0.61", "53.01 ± 0.62", "-0.50 ± 0.87", "Deleu et al., Table 2",
    ]  # fmt: skip
    published = lines.index("| COMLN | conv4 | 53.01 ± 0.62 | 70.54 ± 0.54 | 54.30 ± 0.69 | 71.35 ± 0.57 |")
    assert lines[published + 1] == f"| **ours** | conv4 | **52.51 ± 0.61** (`{runs}/comln/good`) |  |  |  |"
    assert sum(line.startswith("| **ours**") for line in lines) == 1
    assert "| CAVIA | conv4 | 51.82 ± 0.65 | 65.85 ± 0.55 | 52.41 ± 2.64 † | 67.55 ± 2.05 † |" in lines
    assert [line.split(":")[0] for line in lines if line.startswith("## ")] == [
        "## Without results", "## Deleu et al., Table 2 (ICLR 2022)"
    ]  # fmt: skip
    every = to_markdown(list(by_name(runs).values()), all_tables=True).splitlines()
    assert [line.split(":")[0] for line in every if line.startswith("## Deleu")] == [
        f"## Deleu et al., Table {table} (ICLR 2022)" for table in (2, 4, 5)
    ]
    tables = [line.count("|") for line in lines[published - 9 : published + 2]]
    assert set(tables) == {7}


def test_csv_has_a_line_for_every_run(runs):
    listed = list(by_name(runs).values())
    records = list(csv.DictReader(io.StringIO(to_csv(listed))))
    assert [record["workdir"] for record in records] == [run.workdir for run in listed]
    good = next(record for record in records if record["workdir"].endswith("good"))
    assert (good["backbone"], good["table"], float(good["paper_ci95"])) == ("conv4", "2", 0.62)
    going = next(record for record in records if record["workdir"].endswith("going"))
    assert (going["status"], going["step"], going["mean"]) == ("unfinished", "350", "")


def test_workdirs_are_found_below_folders_by_pattern_and_once(runs):
    assert find_workdirs([f"{runs}/comln/*", f"{runs}/comln/good"]) == sorted((runs / "comln").iterdir())
    with pytest.raises(FileNotFoundError, match="no such workdir"):
        find_workdirs([f"{runs}/nothing*"])
    with pytest.raises(FileNotFoundError, match="no run in it"):
        find_workdirs([f"{runs}/notes"])


def test_entry_point_prints_and_writes(runs, tmp_path, capsys):
    output = tmp_path / "out"
    workdirs = [f"--workdirs={runs}/comln/good,{runs}/comln/torn", f"--workdirs={runs}/maml/*"]
    assert report.main(["report", *workdirs, f"--output={output}"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == (output / "report.md").read_text().strip()
    assert f"{runs}/comln/torn: results.json cannot be used" in printed.err
    assert len((output / "report.csv").read_text().splitlines()) == 4
    assert sorted(path.name for path in output.iterdir()) == ["report.csv", "report.md"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workdirs=nowhere/at-all"], "nowhere/at-all: no such workdir"),
        (["--workdir=runs"], "nknown command line flag 'workdir'"),
        (["--workdirs=a", "b"], "unexpected argument 'b'"),
        (["--workdirs="], "--workdirs is empty"),
        (["--tables=some"], "ours|all"),
    ],
)
def test_unusable_requests_are_one_line_and_status_2(arguments, said, capsys):
    assert report.main(["report", *arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_help_needs_no_jax():
    code = (
        "import sys; from experiments.report import main; main(['', '--help']); print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--workdirs" in done.stdout and done.stdout.splitlines()[-1] == "False"


def test_a_paper_of_medians_is_compared_by_medians(tmp_path):
    row = row_for("cub", "TURTLE", "conv4", 5, 1, paper="turtle")
    results = results_of(0.52, 0.01, row)
    results["eval"]["metrics"]["accuracy"]["of_medians"] = {"mean": 0.54, "median": 0.54, "ci95": 0.02}
    write_run(tmp_path / "turtle", results)
    record = compare_with_paper(collect_runs([tmp_path / "turtle"])[0])
    assert (record["mean"], record["ci95"]) == pytest.approx((54.0, 2.0))
    assert record["paper_mean"] == 53.0 and record["difference"] == pytest.approx(1.0)


def test_a_sine_run_shows_its_measure_and_of_several_seeds_their_medians(tmp_path):
    results = results_of(0.5, 0.01, None, metric="loss", experiment="learned_optimizers", dataset="sinusoid")
    error = {"mean": 0.4, "median": 0.4, "ci95": 0.02, "unit": "squared target"}
    results["eval"]["metrics"]["squared_error"] = error
    write_run(tmp_path / "one", results)
    error["of_medians"] = {"mean": 0.3, "median": 0.3, "ci95": 0.03}
    write_run(tmp_path / "several", results)
    records = [compare_with_paper(run) for run in collect_runs([tmp_path / "one", tmp_path / "several"])]
    assert [(one["metric"], one["mean"], one["ci95"]) for one in records] == [
        ("squared_error", 0.4, 0.02), ("squared_error", 0.3, 0.03)
    ]  # fmt: skip


def online_run(folder, published=None, **settings):
    metrics = {
        f"accuracy_{shot}_shot": {"mean": 0.9 + shot / 100, "ci95": 0.01, "unit": "fraction"}
        for shot in range(10)
    }
    fields = {"experiment": "online_few_shot", "algorithm": "cl_lstm", "dataset": "omniglot", "shot": None}
    results = results_of(0.9, 0.01, published, **fields)
    results["eval"]["metrics"] |= metrics
    usual = {"presentations": 10, "delay": 1, "inject": "first", "skip": "add", "filters": 64, "hidden": None}
    return write_run(folder, results, words=words(**usual | settings), backbone=None)


def test_runs_on_streams_are_told_apart_and_shown_by_shot(tmp_path):
    folders = [
        online_run(tmp_path / "first", image_size=14),
        online_run(tmp_path / "lstm", image_size=14, inject="lstm"),
        online_run(tmp_path / "late", delay=3, hidden=64),
    ]
    runs = collect_runs(folders)
    lines = [line for line in to_markdown(runs).splitlines() if line.startswith(f"| `{tmp_path}")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    settings = [
        "omniglot 5-way, 14x14, 10 presentations",
        "omniglot 5-way, 14x14, 10 presentations, labels to lstm",
        "omniglot 5-way, 10 presentations, delay 3, hidden 64",
    ]
    shots = ["91.00 ± 1.00", "95.00 ± 1.00", "98.00 ± 1.00"]
    assert [(cell[2], cell[6]) for cell in cells] == [(name, shot) for name in settings for shot in shots]
    assert [cell[5] for cell in cells[:3]] == [f"accuracy_{shot}_shot (%)" for shot in (1, 5, 8)]
    assert [compare_with_paper(run)["setting"] for run in runs] == settings


def test_a_run_stands_beside_each_row_it_reproduces_and_by_all_of_its_shots(tmp_path):
    row = row_for("omniglot", "CL+LSTM", way=5, paper="cl_lstm")
    assert row["table"] == "1"
    folder = online_run(tmp_path / "run", row)
    lines = to_markdown(collect_runs([folder])).splitlines()
    main = [line for line in lines if line.startswith(f"| `{folder}`")]
    assert [line.split("|")[8].strip() for line in main] == ["96.80 ± 0.57", "99.40 ± 0.23", "99.70 ± 0.23"]
    ours = [index for index, line in enumerate(lines) if line.startswith("| **ours**")]
    assert [lines[index - 1].split("|")[1].strip() for index in ours] == [
        "CL+LSTM", "CL+LSTM (labels to CL-1 and LSTM)"
    ]  # fmt: skip
