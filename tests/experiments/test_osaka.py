"""Runs on OSAKA's stream: published settings, flags, resuming, the grid, on a handful of images."""

import json

import jax
import numpy as np
import pytest
from results_schema import check_results

import jmeta
from experiments import osaka, pretraining
from experiments.cli import parse, unused_flags
from experiments.errors import UsageError
from experiments.presets import sparse_maml as paper
from experiments.runner import Run, start
from jmeta import registry
from jmeta.data.episodes import from_splits
from jmeta.data.source import DatasetInfo
from jmeta.models.mlp import mlp
from jmeta.online import osaka_methods
from jmeta.report.published import row_for

ARGV = ["osaka"]

pytestmark = pytest.mark.usefixtures("compiled_once")


def resolved(*flags):
    return parse(osaka.EXPERIMENT, [*ARGV, *flags])


def published(*flags):
    row = osaka.published_row(resolved(*flags))
    return row and row_for(**row)


def test_published_settings():
    full = resolved()
    expected = {"learning_rate": 1e-4, "inner_steps": 8, "inner_lr": 0.1, "threshold": 2.5,
                "modulation": 0.25, "meta_batch": 4, "patience": 10, "order": "first",
                "validation_tasks": 400, "way": 10,
                "steps": 10_000, "learn_rates": True, "prolonged": True, "restart": "code"}  # fmt: skip
    assert {name: getattr(full, name) for name in expected} == expected
    often = resolved("--stay=0.9")
    assert (often.inner_steps, often.threshold, often.meta_batch) == (16, 2.0, 8)
    anil = resolved("--preset=table6_stay90_anil")
    assert (anil.learning_rate, anil.inner_lr, anil.patience, anil.order) == (0.005, 0.05, 20, "mixed")
    plain = resolved("--preset=table6_stay98_c_maml_plain")
    assert (plain.pretrain, plain.prolonged, plain.threshold) == (False, False, float("inf"))
    small = resolved("--preset=small_stay90_maml")
    assert (small.steps, small.filters, small.way, small.inner_steps, small.pretrain_steps) == (
        500,
        16,
        5,
        4,
        200,
    )


def test_every_preset_is_meant_for_its_algorithm():
    assert len(osaka.EXPERIMENT.presets) == 2 * 2 * (10 + 5)
    for name, values in osaka.EXPERIMENT.presets.items():
        settings = resolved(f"--preset={name}")
        assert not set(unused_flags(osaka.EXPERIMENT, settings)) & set(values), name


def test_published_rows_are_those_of_table_6():
    row = published("--algorithm=sparse_c_maml")
    assert (row["table"], row["cumulative_accuracy"]) == ("6", {"mean": 94.2, "std": 0.4, "ci95": 0.35})
    row = published("--algorithm=online_adam", "--stay=0.9")
    assert row["cumulative_accuracy"]["mean"] == 23.8
    for other in (
        "--steps=500",
        "--way=5",
        "--filters=16",
        "--stay=0.95",
        "--preset=table6_stay98_c_maml_plain",
    ):
        assert published(other) is None


def fake_source(run, name):
    """Few images, told apart by where their ink is; the fourth part of Omniglot's classes."""
    random = np.random.default_rng(0)

    def split(classes):
        kinds = random.integers(0, 256, (classes, 28, 28, 1))
        labels = np.repeat(np.arange(classes), 20)
        noise = random.integers(-30, 30, (len(labels), 28, 28, 1))
        return jmeta.from_arrays(np.clip(kinds[labels] + noise, 0, 255).astype(np.uint8), labels)

    parts = {"omniglot": (8, 3, 3), "mnist": (4,), "fashion_mnist": (4,)}
    info = DatasetInfo("fake", "none", "none", {}, (28, 28, 1))
    sources = {
        domain: from_splits(info, dict(zip(("train", "validation", "test"), map(split, sizes))))
        for domain, sizes in parts.items()
    }
    return sources[name]


TINY = "--way=3 --shot=2 --steps=10 --log_every=4 --checkpoint_every=4".split()
TRAINED = "--query=2 --pretrain_steps=3 --validation_tasks=4 --meta_batch=1".split()


@pytest.fixture
def run(monkeypatch, capsys, enable_x64):
    """`run(*flags)`: a run in this process on few images and a small network; exit status and results."""

    def network(*, filters, weights, initialize, head=None):
        return mlp(widths=(6,), outputs=head, initialize=initialize)

    monkeypatch.setattr(Run, "dataset", fake_source)
    monkeypatch.setattr(osaka_methods, "conv4", network)
    monkeypatch.setattr(pretraining, "TRAINING", slice(9))
    monkeypatch.setattr(pretraining, "VALIDATION", slice(9, 14))
    monkeypatch.setattr(pretraining, "VALIDATE_EVERY", 2)

    def call(*flags):
        settings = parse(osaka.EXPERIMENT, [*ARGV, *TINY, *flags])
        with enable_x64(False):
            status = start(osaka.EXPERIMENT, settings)
        out = capsys.readouterr().out.strip().splitlines()
        results = json.loads(out[-1]) if out else None
        if results:
            check_results(results)
        return status, results

    return call


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--algorithm=bgd", "--inner_lr=1"], "--inner_lr=1.0 has no meaning here: bgd has none"),
        (["--nopretrain", "--meta_batch=2"], "--nopretrain trains nothing before the stream"),
        (["--noprolonged", "--restart=code"], "without prolonged phases none starts"),
        (["--stay=1.5"], "--stay=1.5; expected at least 0 and at most 1"),
        (["--threshold=-1"], "--threshold=-1.0; expected at least 0"),
        (["--algorithm=maml", "--grid=inner_lr=1"], "'inner_lr'; expected once each of 'learning_rate'"),
        (
            ["--algorithm=online_adam", "--grid=learning_rate=-1"],
            "--learning_rate=-1.0; expected more than 0",
        ),
        (["--modulation=nan"], "--modulation=nan; expected at least 0"),
        (["--algorithm=maml", "--nopretrain"], "has no meaning here: maml always does"),
    ],
)
def test_flags_that_cannot_be(run, tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        run(*flags, f"--workdir={tmp_path / 'run'}")


def test_a_batch_cannot_have_more_classes_than_a_domain(run, tmp_path, capsys):
    with pytest.raises(UsageError, match="way=5; expected at most the 4 classes of the smallest domain"):
        run("--algorithm=online_adam", "--way=5", f"--workdir={tmp_path / 'run'}")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; expected a folder"):
        run("--algorithm=online_adam", f"--workdir={tmp_path / 'file'}")


def test_a_run_leaves_what_the_contract_names(run, tmp_path):
    flags = ["--algorithm=sparse_c_maml", "--num_seeds=2", "--noshared_pretraining", "--threshold=0.1",
             "--inner_steps=1"]  # fmt: skip
    status, results = run(*flags, *TRAINED, f"--workdir={tmp_path / 'run'}")
    assert status == 0
    assert results == json.loads((tmp_path / "run/results.json").read_text())
    assert (results["experiment"], results["steps"], results["way"], results["published"]) == (
        "osaka",
        10,
        3,
        None,
    )
    arrays = np.load(tmp_path / "run/eval.npz")
    assert arrays["accuracy"].shape == arrays["domain"].shape == (2, 10)
    metrics, accuracy = results["eval"]["metrics"], arrays["accuracy"].mean(1)
    np.testing.assert_allclose(metrics["cumulative_accuracy"]["mean"], accuracy.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["cumulative_accuracy"]["std"], accuracy.std(ddof=1), rtol=1e-5)
    assert results["learned"].keys() >= {"sparsity", "sparsity/W1", "sparsity/b2", "pretraining_accuracy"}
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 10] and len(lines[0]["accuracy_by_trial"]) == 2
    np.testing.assert_allclose(lines[2]["accuracy_by_trial"], arrays["accuracy"][:, 8:].mean(1), rtol=1e-6)
    assert (tmp_path / "run/pretraining/metrics.jsonl").exists()
    for name in ("accuracy", "sparsity", "learning_curves"):
        assert (tmp_path / f"run/figures/{name}.png").stat().st_size > 5000


def test_a_stopped_stream_goes_on_to_the_same_numbers_and_may_be_prolonged(run, tmp_path, killed_at):
    flags = ["--algorithm=c_maml", "--threshold=0.1", "--learning_rate=0.05", "--nopretrain",
             "--inner_steps=1"]  # fmt: skip
    _, whole = run(*flags, f"--workdir={tmp_path / 'whole'}")

    with killed_at(8):
        run(*flags, f"--workdir={tmp_path / 'parts'}")
    run(*flags, "--steps=9", f"--workdir={tmp_path / 'parts'}")
    _, resumed = run(*flags, f"--workdir={tmp_path / 'parts'}")
    assert resumed["eval"] == whole["eval"] and resumed["learned"] == whole["learned"]
    a, b = (np.load(tmp_path / part / "eval.npz") for part in ("whole", "parts"))
    for name in ("accuracy", "loss", "detected", "updated", "domain"):
        np.testing.assert_array_equal(a[name], b[name])
    assert a["updated"].any()


def test_a_grid_pretrains_and_runs_every_point(run, tmp_path):
    flags = ["--algorithm=finetuning", "--grid=learning_rate=0.05:0.0001", *TRAINED]
    _, results = run(*flags, f"--workdir={tmp_path / 'grid'}")
    assert [point["values"]["learning_rate"] for point in results["grid"]] == [0.05, 0.0001]
    assert {folder.name for folder in (tmp_path / "grid/pretraining").iterdir()} == {
        "learning_rate=0.05", "learning_rate=0.0001"
    }  # fmt: skip
    accuracies, losses = (
        [point["metrics"][name]["mean"] for point in results["grid"]]
        for name in ("cumulative_accuracy", "loss")
    )
    assert losses[0] != losses[1]
    assert results["eval"]["metrics"]["cumulative_accuracy"]["mean"] == max(accuracies)
    assert np.load(tmp_path / "grid/eval.npz")["accuracy_of_grid"].shape == (2, 1, 10)


@pytest.mark.parametrize("algorithm", osaka.ALGORITHMS)
def test_every_algorithm_starts(algorithm):
    """Its states before the stream, and shapes after a batch: nothing is computed."""
    settings = resolved(f"--algorithm={algorithm}", "--way=3", "--shot=2", "--filters=4", "--steps=4")
    own = settings.take("way", "filters", *registry.entry("osaka", algorithm).settings)
    method = jmeta.build({"name": algorithm, **own}, "osaka")
    x = jax.ShapeDtypeStruct((6, 28, 28, 1), np.float32)
    state = jax.eval_shape(method.online.init, jax.random.key(0), x)
    batch = jmeta.types.Batch(x, jax.ShapeDtypeStruct((6,), np.int32))
    after, info = jax.eval_shape(
        method.online.observe, state, batch, jax.eval_shape(lambda: jax.random.key(0))
    )
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert info["accuracy"].shape == info["loss"].shape == ()
    assert (method.pretraining is not None) == (algorithm in paper.PRETRAINED)
    if method.pretraining:
        meta, _ = jax.eval_shape(method.pretraining.init, jax.random.key(0), x)
        assert jax.tree.structure(meta) == jax.tree.structure(state.slow.meta)
