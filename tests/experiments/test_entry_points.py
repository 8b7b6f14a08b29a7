"""Whole runs through the command line: results, resuming, evaluating, and what goes wrong."""

import json

import numpy as np
import pytest

from jmeta.outer.load import load

pytestmark = pytest.mark.slow


def last_line(done):
    return json.loads(done.stdout.strip().splitlines()[-1])


def refusal(done):
    """The last line on standard error; those before it are notes on the data."""
    *notes, line = done.stderr.splitlines()
    assert line.startswith("experiments.") and not any("Traceback" in note for note in notes)
    return line


def test_a_run_leaves_what_the_contract_names(finished_run):
    results = json.loads((finished_run / "results.json").read_text())
    for field, value in {"experiment": "comln", "algorithm": "comln", "preset": None, "dataset": "glyphs",
                         "way": 5, "shot": 1, "seed": 0, "steps": 8, "published": None}.items():  # fmt: skip
        assert results[field] == value
    assert set(results["train"]) == {"seconds", "compile_seconds", "tasks_per_second"}
    evaluation = results["eval"]
    assert (evaluation["split"], evaluation["tasks"], evaluation["norm"]) == ("test", 10, "batch")
    values = np.load(finished_run / "eval.npz")["accuracy"]
    assert values.shape == (10,)
    accuracy = evaluation["metrics"]["accuracy"]
    np.testing.assert_allclose(accuracy["mean"], values.mean(), rtol=1e-6)
    np.testing.assert_allclose(accuracy["ci95"], 1.96 * values.std(ddof=1) / 10**0.5, rtol=1e-5)
    config = json.loads((finished_run / "config.json").read_text())
    assert config["flags"]["filters"] == 4 and config["versions"]["jax"] and config["device"]["count"] == 1
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [0, 2, 4, 6, 8]
    assert lines[0]["learned/horizon"] == 1 and "loss" not in lines[0]
    assert [line["step"] for line in lines if line["split"] == "validation"] == [4, 8]
    for name in ("learning_curves", "horizon", "episode"):
        assert (finished_run / "figures" / f"{name}.png").stat().st_size > 5000
    assert list((finished_run / "tensorboard").iterdir())


def test_a_finished_run_prints_its_results_again(finished_run, run_experiment, tiny):
    before = (finished_run / "results.json").stat().st_mtime_ns
    done = run_experiment("comln", *tiny, f"--workdir={finished_run}")
    assert done.returncode == 0
    assert last_line(done) == json.loads((finished_run / "results.json").read_text())
    assert (finished_run / "results.json").stat().st_mtime_ns == before


def test_a_run_in_two_parts_equals_the_run_in_one(finished_run, run_experiment, tiny, tmp_path):
    parts = tmp_path / "parts"
    for steps in (6, 8):
        done = run_experiment("comln", *tiny, f"--workdir={parts}", f"--steps={steps}")
        assert done.returncode == 0, done.stderr
    for (_, whole), (_, split) in [(load(finished_run), load(parts))]:
        for a, b in zip(*(np.concatenate([np.ravel(x) for x in leaves(s)]) for s in (whole, split))):
            assert a == b
    again = run_experiment("comln", *tiny, f"--workdir={parts}", "--steps=4")
    assert again.returncode == 2 and "past --steps=4" in again.stderr


def leaves(state):
    import jax

    return jax.tree.leaves((state.meta, state.model_state))


def test_another_identity_is_refused_and_named(finished_run, run_experiment, tiny):
    done = run_experiment("comln", *tiny, f"--workdir={finished_run}", "--filters=6")
    assert done.returncode == 2
    assert "holds another run: --filters is 6 now and 4 there" in refusal(done)


def test_evaluating_another_run_gives_its_numbers(finished_run, run_experiment, tmp_path):
    flags = ["--dataset=glyphs", "--query=2", "--filters=4", "--eval_tasks=10", "--eval_only"]
    done = run_experiment("comln", *flags, f"--init_from={finished_run}", f"--workdir={tmp_path / 'eval'}")
    assert done.returncode == 0, done.stderr
    ours = last_line(done)
    theirs = json.loads((finished_run / "results.json").read_text())
    assert ours["eval"]["metrics"]["accuracy"] == theirs["eval"]["metrics"]["accuracy"]
    assert ours["learned"] == theirs["learned"] and ours["steps"] == 0
    misfit = run_experiment(
        "comln", *flags, "--way=3", f"--init_from={finished_run}", f"--workdir={tmp_path / 'misfit'}"
    )
    assert misfit.returncode == 2 and "w0 has shape" in refusal(misfit)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=omniglot", "--data_dir={tmp}/nowhere"], "nowhere"),
        (["--eval_only"], "--init_from"),
        (["--init_from={tmp}"], "config.json"),
        (["--precision=bfloat16"], "no effect on a CPU"),
        (["--solver=euler"], "step_size"),
        (["--horizon=-1"], "horizon"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_2(flags, message, run_experiment, tmp_path):
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    done = run_experiment("comln", *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert message in refusal(done) and not done.stdout and not (tmp_path / "run").exists()


def test_a_flow_that_cannot_finish_is_exit_3_with_task_and_horizon(run_experiment, tiny, tmp_path):
    flags = ["--horizon=1e6", "--solver_steps=3"]
    done = run_experiment("comln", *tiny, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 3, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert "flow_ok of task" in line and "horizon 1e+06" in line and "step 1" in line


def test_gradient_adapters_share_the_skeleton(run_experiment, tiny, tmp_path):
    flags = ["--algorithm=anil", "--inner_lr=0.1", "--inner_steps=2"]
    done = run_experiment("maml", *tiny, *flags, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert last_line(done)["algorithm"] == "anil"
    assert np.isfinite(last_line(done)["eval"]["metrics"]["accuracy"]["mean"])


def test_maml_on_sinusoids_needs_no_data(run_experiment, tmp_path):
    flags = [
        "--dataset=sinusoid",
        "--shot=5",
        "--query=5",
        "--steps=20",
        "--eval_every=10",
        "--eval_tasks=20",
    ]
    done = run_experiment("maml", *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert last_line(done)["eval"]["metrics"]["squared_error"]["mean"] < 20
