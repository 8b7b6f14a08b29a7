"""Values of sparse-MAML's few-shot presets, typed again from its scripts, and their published rows."""

import json

import pytest

from experiments import few_shot
from experiments.cli import parse
from experiments.presets import sparse_maml_few_shot as paper
from experiments.presets.tables import SPARSE_MAML
from experiments.reproduce import presets_of
from jmeta.report.published import published_rows, row_for

CODE = {
    "table1_5shot_sparse_maml": {
        "inner_lr": 0.25, "inner_steps": 35, "optimizer": "adam", "learning_rate": 0.001,
        "mask_learning_rate": 0.0075, "mask_optimizer": None, "meta_batch": 2, "steps": 40_000,
        "eval_tasks": 500, "num_seeds": 5, "clip_value": None, "mask_start": "he_uniform", "adapt_norm": True,
        "initialize": "pytorch",
    },
    # Outer rates on a mean of two tasks, which the code sums.
    "table1_1shot_sparse_maml_plus": {
        "inner_lr": 0.1, "inner_steps": 35, "optimizer": "sgd", "learning_rate": 2 * 0.001,
        "mask_learning_rate": 2 * 0.0075, "meta_batch": 2, "steps": 60_000, "mask_factor": 0.5,
        "mask_dimension": 1600,
    },
    "table2_5shot_sparse_maml": {
        "inner_lr": 0.05, "mask_learning_rate": 0.01, "meta_batch": 1, "clip_value": 10.0, "num_seeds": 3,
        "mask_start": "uniform", "adapt_norm": False, "backbone": "resnet12_boil",
    },
    "table2_1shot_sparse_relu_maml": {
        "inner_lr": 0.01, "mask_learning_rate": 0.01, "rate_start": "constant", "adapt_norm": False,
    },
    "table2_5shot_sparse_relu_maml": {"inner_lr": 0.05},
    "figure1_90percent": {"mask_start": "uniform", "mask_shift": -0.4},
    "figure2_sparse_maml_5steps": {"inner_steps": 5, "inner_lr": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("preset", CODE)
def test_values_of_the_code(preset):
    settings = parse(few_shot.EXPERIMENT, ["", f"--preset=sparse_maml_{preset}"])
    assert settings.take(*CODE[preset]) == CODE[preset]


@pytest.mark.parametrize("table", ["1", "2", "4"])
def test_every_published_row_has_its_preset(table):
    rows = {(row["method"], row["dataset"], row["shot"]) for row in published_rows("sparse_maml", table)}
    named = set()
    for preset in presets_of(SPARSE_MAML[table], SPARSE_MAML[table].presets):
        settings = parse(few_shot.EXPERIMENT, ["", f"--preset={preset}"])
        row = row_for(**few_shot.published_row(settings.algorithm, settings))
        assert (row["paper"], row["table"]) == ("sparse_maml", table)
        named.add((row["method"], row["dataset"], row["shot"]))
    own = {row for row in rows if row[0] in paper.PAPER_NAMES.values()}
    assert own and own <= named <= rows


def test_a_row_across_domains_tests_what_table_1_trained():
    presets = few_shot.EXPERIMENT.presets
    for preset in presets_of(SPARSE_MAML["4"], SPARSE_MAML["4"].presets):
        values = presets[preset]
        start = presets[values["init_from"]]
        assert values["eval_only"] and start["dataset"] == "mini_imagenet" != values["dataset"]
        same = values.keys() & start.keys() - {"dataset"}
        assert all(values[flag] == start[flag] for flag in same)
        # Whatever shapes the network and the inner loop is the same, given by default or not.
        own = {*few_shot.ALGORITHMS[values["algorithm"]], "backbone", "num_seeds", "way", "shot"}
        own -= {"mask_start", *paper.OUTER}
        here, there = (
            parse(few_shot.EXPERIMENT, ["", f"--preset={name}"]) for name in (preset, values["init_from"])
        )
        assert here.take(*own) == there.take(*own), preset


def test_a_preset_on_other_data_has_no_published_row():
    for arguments in (
        ["--preset=sparse_maml_table4_5shot_to_cub_sparse_maml", "--dataset=cifar_fs"],
        ["--preset=sparse_maml_table1_5shot_sparse_maml", "--dataset=cifar_fs"],
    ):
        settings = parse(few_shot.EXPERIMENT, ["", *arguments])
        assert row_for(**few_shot.published_row(settings.algorithm, settings)) is None


@pytest.mark.slow
def test_a_run_learns_masks_by_an_optimizer_of_their_own_and_is_tested_again(run_experiment, tmp_path):
    network = ["--algorithm=sparse_maml_plus", "--dataset=glyphs", "--backbone=mlp", "--filters=4",
               "--query=2", "--inner_steps=2", "--mask_dimension=8", "--eval_tasks=4",
               "--num_seeds=2"]  # fmt: skip
    training = ["--steps=4", "--meta_batch=2", "--log_every=2", "--eval_every=0", "--mask_optimizer=adam"]
    workdirs = [tmp_path / "trained", tmp_path / "tested"]
    done = run_experiment("few_shot", *network, *training, f"--workdir={workdirs[0]}")
    assert done.returncode == 0, done.stderr
    again = ["--eval_only", f"--init_from={workdirs[0]}", f"--workdir={workdirs[1]}"]
    done = run_experiment("few_shot", *network, *again)
    assert done.returncode == 0, done.stderr
    results = [json.loads((workdir / "results.json").read_text()) for workdir in workdirs]
    assert results[0]["eval"]["metrics"] == results[1]["eval"]["metrics"]
    assert results[0]["learned"] == results[1]["learned"]
    assert {"sparsity", "sparsity/dense_0/kernel", "mask_deviation"} <= results[0]["learned"].keys()
    assert "sparsity/dense_0/kernel" not in results[0]["eval"]["metrics"]
    tx = json.loads((workdirs[0] / "config.json").read_text())["spec"]["learner"]["tx"]
    assert (tx["name"], tx["tx"]["name"]) == ("by_part", "sgd")
    assert tx["rule_tx"] == {"name": "adam", "learning_rate": 0.015}
    lines = [json.loads(line) for line in (workdirs[0] / "metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in lines if line["step"] == 4 and line["split"] == "train")
    assert 0.3 < logged["sparsity/dense_0/kernel"] < 0.7 and logged["mask_deviation"] != 1
