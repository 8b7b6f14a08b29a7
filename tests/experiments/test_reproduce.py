"""Whole tables: rows that start from other rows, flags that some rows do not have, the paper's statistic; and
the list of the papers' tables and figures."""

import json
import signal
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from experiments import learned_optimizers, reproduce, rows
from experiments.cli import parse, resolve
from experiments.errors import UsageError
from experiments.parts import Parts
from experiments.presets.tables import PAPERS
from experiments.workdir import is_finished
from jmeta import registry
from jmeta.data.source import Dataset, DatasetInfo
from jmeta.data.sources.mnist import FILES
from jmeta.report.published import in_fractions, papers, row_for

TINY = (
    "--dataset=glyphs --way=3 --query=2 --filters=4 --steps=2 --eval_every=2 --validation_tasks=4 "
    "--eval_tasks=4 --num_seeds=2 --hidden_units=4 --inner_steps=2 --padded"
)


@pytest.mark.slow
def test_a_row_is_tested_from_the_row_it_names(run_experiment, tmp_path):
    """On glyphs for either data set; the row from the other data set has nothing to start from."""
    arguments = ["--experiment=learned_optimizers", "--rows=table3_*mini_imagenet*_1shot_meta_lstm"]
    done = run_experiment("reproduce", *arguments, f"--flags={TINY}", f"--output={tmp_path}")
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
    of_medians = results["eval"]["metrics"]["accuracy"]["of_medians"]
    assert found[trained]["metrics"]["accuracy"]["mean"] == pytest.approx(100 * of_medians["mean"])
    for name in found:  # the same parameters on the same test tasks
        assert json.loads((tmp_path / name / "results.json").read_text())["eval"] == results["eval"]
        assert rows.seconds(tmp_path / name) > found[name]["seconds"]


def test_flags_without_a_meaning_for_a_row_are_left_out(capsys):
    experiment = learned_optimizers.EXPERIMENT
    flags = ["--rotations", "--learning_rate=0.1", "--noaugment", "--way=3", "--backbone=resnet12",
             "--drop_block=0.1"]  # fmt: skip
    with pytest.raises(Exception, match="noaugment"):
        rows.meaningful_flags(experiment, "table3_1_cub_1shot_turtle", flags)
    flags.remove("--noaugment")
    assert rows.meaningful_flags(experiment, "table3_1_cub_1shot_turtle", flags) == flags
    left = rows.meaningful_flags(experiment, "table3_1_cub_1shot_scratch", [*flags, "--norotations"])
    assert left == ["--way=3", "--backbone=resnet12", "--drop_block=0.1"]
    assert "without --norotations" in capsys.readouterr().err


def finish(workdir, steps, planned):
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "results.json").write_text(json.dumps({"steps": steps}))
    (workdir / "config.json").write_text(json.dumps({"steps": planned}))


def test_a_run_is_finished_with_all_its_steps(tmp_path):
    assert not is_finished(tmp_path)
    for steps, planned, finished in ((3, 5, False), (5, 5, True), (0, 0, True)):
        finish(tmp_path, steps, planned)
        assert is_finished(tmp_path) == finished


def test_rows_are_in_the_papers_unit_and_statistic():
    of_tasks = {"mean": 0.47, "median": 0.47, "ci95": 0.01, "unit": "fraction"}
    of_medians = {"mean": 0.475, "ci95": 0.02}
    results = {
        "experiment": "learned_optimizers", "steps": 3, "train": {"seconds": 1.0},
        "published": in_fractions(row_for("cub", "TURTLE", "conv4", 5, 1, paper="turtle")),
        "eval": {"metrics": {"loss": of_tasks | {"mean": "nan", "of_medians": {"mean": "nan", "ci95": 1.0}},
                             "accuracy": of_tasks | {"of_medians": of_medians}}},
    }  # fmt: skip
    row = rows.summarize_row(results)
    assert row["metrics"] == {"accuracy": pytest.approx({"mean": 47.5, "ci95": 2.0})}
    assert rows.format_metrics(row["metrics"]) == "accuracy 47.5 +- 2"
    assert rows.format_metrics(row["published"]) == "accuracy 53 +- 0"


class Composed(Parts):
    """A run that is composed and not run, from one that was trained on miniImageNet."""

    def dataset(self, name=None):
        name = name or self.settings.dataset
        return Dataset(DatasetInfo(name, "", "", {}, (84, 84, 3)), lambda split, **options: None, {})

    def origin(self):
        return {"dataset": "mini_imagenet"}, {}

    def fit_episodes(self, spec, source, *, published, **rest):
        return published


@pytest.mark.parametrize("algorithm", ["turtle", "scratch"])
def test_rows_of_table_3_4_know_their_published_rows(algorithm):
    presets = learned_optimizers.EXPERIMENT.presets
    name = f"table3_4_mini_imagenet_to_cub_5shot_{algorithm}"
    settings = resolve(learned_optimizers.EXPERIMENT, {"preset": name})
    row = row_for(**learned_optimizers.main(Composed(settings)))
    assert row is not None and (row["table"], row["variant"]) == ("3.4", "from mini_imagenet")
    assert (row["dataset"], row["method"]) == ("cub", learned_optimizers.METHODS[algorithm])
    assert presets[name].get("init_from") == (
        None if algorithm == "scratch" else "table3_1_mini_imagenet_5shot_turtle"
    )
    explicit = {"dataset": "mini_imagenet", "preset": name.replace("3_4", "3_1").replace("_to_cub", "")}
    same = resolve(learned_optimizers.EXPERIMENT, explicit | {"eval_only": settings.eval_only})
    assert learned_optimizers.main(Composed(same))["variant"] is None


def test_a_row_starts_from_a_run_of_another_table_of_the_paper(tmp_path, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(rows, "_run", lambda command: commands.append(command) or 3)
    tested, trained = "table3_4_cub_to_mini_imagenet_1shot_maml", "table3_1_cub_1shot_maml"
    selection = reproduce.select_table("turtle/3.4", str(tmp_path / "3.4"))
    workdir, folders = selection.output / tested, selection.other_folders
    run = lambda: rows.run_row(selection.experiment, [], tested, workdir, 2.0, other_folders=folders)  # noqa: E731
    assert run() == 2 and not commands
    finish(tmp_path / "3.1" / trained, 5, 5)
    assert run() == 3
    assert f"--init_from={tmp_path / '3.1' / trained}" in commands[0]
    assert f"--workdir={workdir}" in commands[0] and "--max_minutes=2.0" not in commands[0]
    assert "--eval_only trains nothing" in capsys.readouterr().err


def test_rows_are_run_until_a_signal_or_the_minutes_are_over(tmp_path, capsys):
    statuses = {"a": 0, "b": 2, "c": 130, "d": 0}
    for name in ("a", "d"):
        finish(tmp_path / name, 5, 5)
    status, results = rows.run_rows(statuses, lambda name, *rest: statuses[name], tmp_path, None)
    assert status == 130 and results == {"a": {"steps": 5}}
    assert capsys.readouterr().err == "b: failed, exit status 2\n"
    status, results = rows.run_rows(statuses, lambda name, *rest: pytest.fail(name), tmp_path, 0)
    assert status == 0 and list(results) == ["a", "d"]  # which are read nevertheless


def test_a_signal_to_the_command_reaches_its_run():
    process = f"import os, signal, time; os.kill(os.getppid(), {signal.SIGTERM:d}); time.sleep(60)"
    assert rows._run([sys.executable, "-c", process]) == 143


@pytest.mark.slow
def test_a_table_is_run_by_its_name(run_experiment, tmp_path):
    tiny = "--steps=2 --eval_every=2 --validation_tasks=4 --eval_tasks=4 --num_seeds=2 --filters=4"
    arguments = ["--table=turtle/figure3.3", "--rows=*_fomaml", f"--flags={tiny}", f"--output={tmp_path}"]
    for _ in range(2):  # the second command reads what the first has left
        done = run_experiment("reproduce", *arguments)
        assert done.returncode == 0, done.stderr
        assert "figure3_3_fomaml" in done.stdout and "squared_error" in done.stdout
    assert "finished before" in done.stderr
    assert list(json.loads((tmp_path / "rows.json").read_text())) == ["figure3_3_fomaml"]
    config = json.loads((tmp_path / "figure3_3_fomaml" / "config.json").read_text())
    assert config["flags"]["preset"] == "figure3_3_fomaml" and config["flags"]["filters"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of"),
        (["--list", "--table=comln/2"], "give one of"),
        (["--table=comln/7"], "no such table"),
        (["--table=comln/figure1"], "nothing to run"),
        (["--table=efficientlab/1"], "not built yet"),
        (["--table=comln/figure3"], "python -m experiments.benchmarks.comln_scaling"),
        (["--table=comln/5", "--rows=table2_*"], "none of table5_1shot, table5_5shot"),
        (["--experiment=nothing"], "no such entry point"),
    ],
)
def test_requests_that_name_nothing_to_run_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        reproduce.main(parse(reproduce.EXPERIMENT, ["", *arguments]))


def test_all_tables_are_listed_with_their_rows_and_data(tmp_path):
    for files in FILES.values():
        for name in files:
            (tmp_path / name).touch()  # which is not read
    lines = reproduce.list_tables(str(tmp_path))
    assert len(lines) == len(reproduce.TABLES) + len(PAPERS)
    named = {line.split()[0]: line for line in lines}
    assert set(reproduce.TABLES) < set(named)
    assert "15 of 15 rows, 12 more" in named["sparse_maml/5"] and "mnist (at hand)" in named["sparse_maml/5"]
    assert "omniglot (missing)" in named["cl_lstm/1"] and "sinusoid (at hand)" in named["turtle/figure3.2"]
    assert "not built yet" in named["efficientlab/2"] and "fss1000 (no reader yet)" in named["efficientlab/2"]
    assert "nothing to run" in named["comln/3"] and "benchmarks.comln_scaling" in named["comln/figure3"]


@pytest.mark.slow
def test_the_list_is_printed(run_experiment):
    done = run_experiment("reproduce", "--list")
    assert done.returncode == 0 and "turtle/3.5" in done.stdout
    assert run_experiment("reproduce", "--list", "--data_dir=/nowhere").returncode == 2


def test_tables_agree_with_the_published_rows():
    for paper, content in papers().items():
        for number, table in content["tables"].items():
            if not number.startswith("Figure"):  # whose numbers are a part of the figure
                assert PAPERS[paper].tables[number].rows == len(table["rows"]), (paper, number)


@pytest.mark.parametrize("name", reproduce.TABLES)
def test_the_presets_of_tables_exist(name):
    table = reproduce.TABLES[name]
    if table.entry_point is None or table.entry_point not in reproduce.EXPERIMENTS:
        assert not table.presets and not table.more
        page = Path(reproduce.__file__).parent / f"{(table.entry_point or 'reproduce').replace('.', '/')}.py"
        assert page.is_file()
        return
    presets = reproduce.EXPERIMENTS[table.entry_point].presets
    for pattern in table.presets + table.more:
        assert any(fnmatch(preset, pattern) for preset in presets), pattern
    in_paper, more = (reproduce.presets_of(table, patterns) for patterns in (table.presets, table.more))
    assert not set(in_paper) & set(more)
    assert table.rows is None or 0 < len(in_paper) <= table.rows
    used = {presets[preset].get("dataset") for preset in in_paper}
    assert used & set(registry.REGISTRY["dataset"]) <= set(table.data)


def test_every_preset_of_a_table_is_listed_with_it():
    listed = {
        preset for table in reproduce.TABLES.values() if table.entry_point in reproduce.EXPERIMENTS
        for preset in reproduce.presets_of(table, table.presets + table.more)
    }  # fmt: skip
    for experiment in reproduce.EXPERIMENTS.values():
        named = {preset for preset in experiment.presets if preset.startswith(("table", "figure"))}
        assert named <= listed, experiment.name
