"""Continual runs: the published settings, resuming, the grid, and a whole run on a handful of images."""

import gzip
import json
import struct

import numpy as np
import pytest
from results_schema import check_results

from experiments import continual, streams
from experiments.cli import parse, unused_flags
from experiments.errors import Interrupted, UsageError
from experiments.runner import Run, start
from experiments.trials import make_trials, parse_grid
from experiments.workdir import is_finished
from jmeta.outer.finite import NonFiniteError
from jmeta.report.published import row_for

ARGV = ["continual"]


def resolved(*flags):
    return parse(continual.EXPERIMENT, [*ARGV, *flags])


def trials_of(grid, seed=0, num_seeds=1):
    flags = continual.EXPERIMENT.flags
    return make_trials(("learning_rate",), flags, grid=grid, seed=seed, num_seeds=num_seeds)


def published(*flags):
    row = continual.published_row(resolved(*flags))
    return row and row_for(**row)


def test_published_settings_of_la_maml_and_mer():
    rotations = resolved("--algorithm=la_maml")
    expected = {"initial_rate": 0.15, "rate_learning_rate": 0.3, "glances": 5, "capacity": 200, "replay": 10,
                "batch": 10, "clip_norm": 2.0, "tasks": 20, "samples": 1000, "passes": 1,
                "initialize": "he_normal"}  # fmt: skip
    assert {name: getattr(rotations, name) for name in expected} == expected
    many = resolved("--algorithm=la_maml", "--dataset=mnist_many_permutations")
    assert (many.initial_rate, many.rate_learning_rate, many.glances, many.capacity) == (0.1, 0.1, 10, 500)
    assert (many.tasks, many.samples) == (100, 200)
    mer = resolved("--preset=table5_mnist_permutations_mer")
    assert (mer.learning_rate, mer.within, mer.across, mer.replay, mer.replay_batches, mer.batch) == (
        0.03, 0.03, 1.0, 10, 10, 1,
    )  # fmt: skip
    gem = resolved("--preset=table5_mnist_many_permutations_gem")
    assert (gem.learning_rate, gem.margin, gem.slots, gem.num_seeds) == (0.003, 0.1, 5, 5)
    assert gem.tasks == 100 and "clip_norm" in continual.ALGORITHMS["gem"]
    assert gem.clip_norm is None


def test_every_preset_is_meant_for_its_algorithm():
    for name, values in continual.EXPERIMENT.presets.items():
        settings = resolved(f"--preset={name}")
        assert not set(unused_flags(continual.EXPERIMENT, settings)) & set(values), name


def test_published_rows_are_those_of_table_5():
    row = published("--algorithm=sparse_la_maml", "--dataset=mnist_permutations")
    assert (row["table"], row["retained_accuracy"]["mean"]) == ("5", 76.88)
    assert row["backward_transfer_and_interference"] == {"mean": -8.39, "std": 0.63, "ci95": 0.55}
    assert published("--algorithm=sgd")["retained_accuracy"]["mean"] == 53.38
    assert published("--algorithm=er") is None
    for other in ("--passes=10", "--tasks=5", "--images=fashion_mnist"):
        assert published("--algorithm=la_maml", other) is None


def test_a_grid_is_a_product_of_lists():
    points = parse_grid("rate=0.1:0.2,mask_learning_rate=1", ("rate", "mask_learning_rate"))
    assert points == [{"rate": 0.1, "mask_learning_rate": 1.0}, {"rate": 0.2, "mask_learning_rate": 1.0}]
    assert parse_grid("", ()) == [{}]
    for text, message in (
        ("rate=0.1", "expected once each of 'learning_rate'"),
        ("learning_rate=a", "number"),
    ):
        with pytest.raises(UsageError, match=message):
            trials_of(text)


FILES = {"train": (300, "train"), "test": (50, "t10k")}
TINY = "--tasks=2 --samples=20 --hidden=8".split()


@pytest.fixture(scope="module")
def small_mnist(tmp_path_factory):
    """A folder of idx files with a few images that can be told apart, and their sizes for the reader."""
    folder = tmp_path_factory.mktemp("data") / "mnist"
    folder.mkdir()
    random = np.random.default_rng(0)
    kinds = random.integers(0, 256, (10, 28, 28))
    for count, name in FILES.values():
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.clip(kinds[labels] + random.integers(-40, 40, (count, 28, 28)), 0, 255).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            path = folder / f"{name}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes()))
    return folder


@pytest.fixture
def run(small_mnist, monkeypatch, capsys, enable_x64):
    """`run(*flags)`: a run in this process on the small images; exit status and results."""
    from jmeta.data.sources import mnist

    monkeypatch.setattr(mnist, "_SIZES", {part: count for part, (count, _) in FILES.items()})

    def call(*flags):
        settings = parse(continual.EXPERIMENT, [*ARGV, *TINY, f"--data_dir={small_mnist}", *flags])
        with enable_x64(False):
            status = start(continual.EXPERIMENT, settings)
        out = capsys.readouterr().out.strip().splitlines()
        results = json.loads(out[-1]) if out else None
        if results:
            check_results(results)
        return status, results

    return call


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--algorithm=sgd", "--glances=2"], "--glances=2 has no meaning here: sgd has none"),
        (["--glances=0"], "--glances=0; expected at least 1"),
        (["--rate_learning_rate=-1"], "--rate_learning_rate=-1.0; expected at least 0"),
        (["--batch=7", "--samples=1000"], "--batch=7 does not divide --samples=1000"),
        (["--grid=within=1"], "'within'; expected once each"),
        (["--grid=initial_rate=0.1:-1"], "--initial_rate=-1.0; expected more than 0"),
        (["--grid=initial_rate=nan"], "--initial_rate=nan; expected more than 0"),
        (["--algorithm=mer", "--within=0"], "--within=0.0; expected more than 0"),
    ],
)
def test_flags_that_cannot_be(run, tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        run(*flags, f"--workdir={tmp_path / 'run'}")


def test_a_run_leaves_what_the_contract_names(run, tmp_path):
    status, results = run(
        "--algorithm=la_maml", "--glances=2", "--num_seeds=2", f"--workdir={tmp_path / 'run'}"
    )
    assert status == 0
    assert results == json.loads((tmp_path / "run/results.json").read_text())
    assert (results["experiment"], results["steps"], results["published"]) == ("continual", 4, None)
    assert is_finished(tmp_path / "run")
    matrices = np.load(tmp_path / "run/eval.npz")["accuracy_matrix"]
    assert matrices.shape == (2, 2, 2) and matrices.max() <= 100
    retained = results["eval"]["metrics"]["retained_accuracy"]
    np.testing.assert_allclose(retained["mean"], matrices[:, -1].mean())
    np.testing.assert_allclose(retained["std"], matrices[:, -1].mean(1).std(ddof=1))
    transfer = results["eval"]["metrics"]["backward_transfer_and_interference"]["mean"]
    diagonal = np.diagonal(matrices, axis1=1, axis2=2).mean()
    np.testing.assert_allclose(transfer, matrices[:, -1].mean() - diagonal, atol=1e-9)
    assert results["learned"].keys() >= {"sparsity", "sparsity/W1", "sparsity/b3"}
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and len(lines[0]["loss_by_trial"]) == 2
    assert [line["tasks_seen"] for line in lines] == [1, 2]
    for name in ("accuracy_matrix", "sparsity", "learning_curves"):
        assert (tmp_path / f"run/figures/{name}.png").stat().st_size > 5000


def test_the_ends_of_the_matrix_give_the_same_metrics(run, tmp_path):
    flags = ["--algorithm=gem", "--margin=0.1"]
    _, whole = run(*flags, f"--workdir={tmp_path / 'whole'}")
    _, ends = run(*flags, "--matrix=ends", f"--workdir={tmp_path / 'ends'}")
    assert ends["eval"]["metrics"] == whole["eval"]["metrics"]
    assert np.isnan(np.load(tmp_path / "ends/eval.npz")["accuracy_matrix"]).sum() == 1
    assert resolved("--dataset=mnist_many_permutations").matrix == "ends"


def test_a_stream_that_ended_early_has_the_metrics_of_what_it_learned(run, tmp_path, monkeypatch):
    """The time is over after the first of the two tasks."""
    whole = Run.fit_stream

    def half(run, advance, states, snapshots, steps, trials, **options):
        return whole(run, advance, states, snapshots, steps // 2, trials, **options)

    monkeypatch.setattr(Run, "fit_stream", half)
    flags = ["--algorithm=er", "--batch=10"]
    _, of_all = run(*flags, f"--workdir={tmp_path / 'whole'}")
    _, of_ends = run(*flags, "--matrix=ends", f"--workdir={tmp_path / 'ends'}")
    assert of_all["eval"]["tasks"] == of_ends["eval"]["tasks"] == 1
    assert of_all["eval"]["metrics"] == of_ends["eval"]["metrics"]
    assert of_ends["eval"]["metrics"]["retained_accuracy"]["mean"] > 0


def test_a_stopped_stream_goes_on_to_the_same_numbers(run, tmp_path, killed_at):
    flags = ["--algorithm=er", "--replay=3", "--capacity=20", "--checkpoint_every=1"]
    _, whole = run(*flags, f"--workdir={tmp_path / 'whole'}")

    with killed_at(40):
        run(*flags, f"--workdir={tmp_path / 'parts'}")
    assert not (tmp_path / "parts/results.json").exists()
    _, resumed = run(*flags, f"--workdir={tmp_path / 'parts'}")
    assert resumed["eval"]["metrics"] == whole["eval"]["metrics"] and resumed["steps"] == whole["steps"]
    a, b = (np.load(tmp_path / part / "eval.npz")["accuracy_matrix"] for part in ("whole", "parts"))
    np.testing.assert_array_equal(a, b)


def test_passes_over_a_task_are_seen_one_by_one(run, tmp_path):
    status, results = run("--algorithm=er", "--batch=10", "--passes=2", f"--workdir={tmp_path / 'run'}")
    assert status == 0 and results["steps"] == 8
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["tasks_seen"] for line in lines] == [0.5, 1, 1.5, 2]


def test_time_that_ends_in_the_first_task_leaves_no_results(tmp_path):
    stream = streams.StreamState((), (), 2, 1.0)
    with pytest.raises(Interrupted, match="stopped after batch 2; the same command goes on") as stopped:
        streams.check_complete(stream, None, tmp_path, least=4)
    assert stopped.value.status == 0
    streams.check_complete(stream, None, tmp_path, least=2)
    with pytest.raises(Interrupted) as stopped:
        streams.check_complete(stream, 15, tmp_path)
    assert stopped.value.status == 143


def test_a_grid_runs_every_point_and_reports_the_best_first(run, tmp_path):
    flags = ["--algorithm=sgd", "--batch=5", "--grid=learning_rate=0.1:0.0001:0.1"]
    _, results = run(*flags, f"--workdir={tmp_path / 'grid'}")
    assert [point["values"]["learning_rate"] for point in results["grid"]] == [0.1, 0.0001, 0.1]
    retained = [point["metrics"]["retained_accuracy"]["mean"] for point in results["grid"]]
    assert retained[0] == retained[2] != retained[1]
    assert results["eval"]["metrics"]["retained_accuracy"]["mean"] == max(retained)
    matrices = np.load(tmp_path / "grid/eval.npz")["accuracy_matrix_of_grid"]
    np.testing.assert_allclose(matrices[:, 0, -1].mean(1), retained)


def test_what_a_grid_has_learned_is_that_of_its_best_point(run, tmp_path):
    flags = ["--algorithm=sparse_la_maml", "--glances=1", "--mask_learning_rate=100"]
    grid = "--grid=rate=0.000001:0.1"
    _, results = run(*flags, grid, f"--workdir={tmp_path / 'grid'}")
    best = int(np.argmax([point["metrics"]["retained_accuracy"]["mean"] for point in results["grid"]]))
    last = json.loads((tmp_path / "grid/metrics.jsonl").read_text().splitlines()[-1])
    by_trial = last["sparsity_by_trial"]
    assert by_trial[0] != by_trial[1]
    assert results["learned"]["sparsity"] == pytest.approx(by_trial[best], rel=1e-6)
    alone = streams.restrict_line(last, slice(best, best + 1))
    assert alone["sparsity"] == by_trial[best] and alone["sparsity_by_trial"] == [by_trial[best]]


def test_a_loss_that_is_not_finite_ends_the_run_but_not_a_grid():
    trials = trials_of("", seed=4, num_seeds=2)
    streams.check_finite(np.array([1.0, 2.0]), 30, None, trials)
    with pytest.raises(
        NonFiniteError, match="step 30: the loss of seed 5 is not finite; there is no checkpoint"
    ):
        streams.check_finite(np.array([1.0, np.nan]), 30, None, trials)
    trials = trials_of("learning_rate=1:2", seed=4)
    streams.check_finite(np.array([1.0, np.inf]), 30, 20, trials)
    with pytest.raises(NonFiniteError, match="the checkpoint of step 20 is before it"):
        streams.check_finite(np.array([np.nan, np.inf]), 30, 20, trials)
