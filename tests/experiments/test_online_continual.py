"""Continual few-shot tasks through the command line."""

import json

import numpy as np
import pytest

import jmeta
from experiments import online_continual
from experiments.cli import parse
from experiments.errors import UsageError
from jmeta.registry import build
from jmeta.report.published import row_for

TINY = (
    "--dataset=folder --image_size=28 --subtasks=3 --subtask_shot=2 --slots=4 --query=1 --test_query=2 "
    "--meta_batch=2 --steps=4 --eval_every=2 --validation_tasks=4 --eval_tasks=4 "
    "--checkpoint_every=2 --log_every=1 --filters=2 --hidden=4"
).split()


def settings(*arguments):
    return parse(online_continual.EXPERIMENT, ["", *arguments])


def published_row(chosen):
    fields = online_continual.published_row(chosen)
    return fields and row_for(**fields)


@pytest.mark.slow
def test_a_run_reports_accuracy_by_subtask_and_is_loaded_again(run_experiment, image_folder, tmp_path):
    flags = [
        *TINY,
        f"--data_dir={image_folder}",
        "--algorithm=oml",
        "--test_inner_optimizer=adam",
        "--test_inner_lr=0.01",
    ]
    done = run_experiment("online_continual", *flags, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.strip().splitlines()[-1])["eval"]["metrics"]
    values = np.load(tmp_path / "eval.npz")
    by_subtask = [values[f"accuracy_subtask_{number}"] for number in (1, 2, 3)]
    np.testing.assert_allclose(values["accuracy"], sum(by_subtask) / 3, rtol=1e-5)
    np.testing.assert_allclose(values["accuracy_before_last"], sum(by_subtask[:2]) / 2, rtol=1e-5)
    assert set(measured) == set(values.files)
    for name in ("accuracy_by_subtask", "episode"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000
    adapter, state = jmeta.load(tmp_path)
    y = np.array([3, 0], np.int32)
    stream = jmeta.Stream(np.zeros((2, 28, 28, 1), np.float32), y, np.array([-1, 3], np.int32))
    assert jmeta.predict(adapter, state, stream, np.zeros((5, 28, 28, 1), np.float32)).shape == (5, 4)


@pytest.mark.parametrize("algorithm", online_continual.ALGORITHMS)
@pytest.mark.parametrize("size", [14, 28])
def test_learners_follow_the_flags(algorithm, size):
    chosen = settings(f"--algorithm={algorithm}", f"--image_size={size}", "--dataset=omniglot", "--slots=7")
    own = chosen.take(*online_continual.ALGORITHMS[algorithm])
    spec = online_continual.describe_learner(algorithm, chosen.slots, chosen.image_size, own)
    outputs = spec["memory"]["way"] if algorithm == "cl_lstm" else spec["outputs"]
    assert outputs == 7 and build(spec).adapt is not None
    if algorithm == "anml":
        assert len(spec["pooled"]) == (3 if size == 14 else 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--inner_lr=0.1",), "cl_lstm has none"),
     (("--algorithm=oml", "--remat_every=5"), "oml has none"),
     (("--algorithm=anml", "--hidden=5"), "anml has none"),
     (("--preset=figure4_cl_lstm", "--algorithm=anml"), "take a preset of anml"),
     (("--curriculum_every=5",), "no --curriculum"),
     (("--subtasks=1",), "at least 2")],
)  # fmt: skip
def test_unused_and_unusable_flags(arguments, message):
    with pytest.raises(UsageError, match=message):
        settings(*arguments)


def test_every_preset_parses():
    presets = online_continual.EXPERIMENT.presets
    for name in presets:
        settings(f"--preset={name}")
    assert len(presets) == 3 * (4 + 1 + 4)
    assert presets["figure4_cl_lstm"]["curriculum"] == "5,10,15"
    assert "curriculum" not in presets["figure3_cl_lstm_5"]


def test_presets_know_their_published_rows():
    presets = online_continual.EXPERIMENT.presets
    rows = {name: published_row(settings(f"--preset={name}")) for name in presets}
    means = {name: row["accuracy_before_last"]["mean"] for name, row in rows.items() if row}
    assert means == {
        "figure3_cl_lstm_20": 93.15, "figure4_cl_lstm": 93.15, "figure3_anml_20": 91.78, "figure4_anml": 91.78
    }  # fmt: skip


@pytest.mark.parametrize(
    "other",
    ["--inject=lstm", "--skip=none", "--filters=32", "--hidden=64", "--image_size=14", "--slots=40",
     "--split=vinyals", "--subtask_shot=3"],
)  # fmt: skip
def test_another_network_or_other_tasks_have_no_published_row(other):
    figure = settings("--preset=figure4_cl_lstm", "--image_size=28")
    assert published_row(figure)["method"] == "CL+LSTM"
    assert published_row(settings("--preset=figure4_cl_lstm", other)) is None
