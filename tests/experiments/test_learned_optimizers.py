"""Learned optimizers through the command line: sines with seeds side by side, images, across domains."""

import json
import os

import numpy as np
import pytest

from experiments import learned_optimizers, runner
from experiments.benchmarks import sine_study
from experiments.cli import parse
from experiments.errors import UsageError
from experiments.parts import Parts
from experiments.records import summarize_tasks
from experiments.settings import Settings
from jmeta.outer.finite import NonFiniteError
from jmeta.outer.load import load

SINE = (
    "--query=5 --steps=6 --eval_every=2 --validation_tasks=10 --eval_tasks=10 --checkpoint_every=3 "
    "--log_every=2 --hidden_layers=2 --hidden_units=4 --filters=8 --num_seeds=2"
).split()
IMAGES = (
    "--dataset=glyphs --way=3 --shot=1 --query=2 --filters=4 --validation_tasks=6 --eval_tasks=6 "
    "--eval_every=2 --checkpoint_every=2 --log_every=2 --steps=4"
).split()


def settings(*arguments):
    return parse(learned_optimizers.EXPERIMENT, ["", *arguments])


def rule(*arguments):
    """The spec of the inner rule."""
    return learned_optimizers.compose_learner(Parts(settings(*arguments)), None)["adapter"]["rule"]


def last_line(process):
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def sine(run_experiment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sine") / "run"
    return workdir, last_line(run_experiment("learned_optimizers", *SINE, f"--workdir={workdir}"))


@pytest.mark.slow
def test_results_are_per_seed(sine):
    workdir, results = sine
    values = np.load(workdir / "eval.npz")["squared_error"]
    assert values.shape == (10, 2)
    by_seed, error = (results["eval"][name]["squared_error"] for name in ("seeds", "metrics"))
    np.testing.assert_allclose(by_seed, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(error["mean"], values.mean(), rtol=1e-6)
    np.testing.assert_allclose(error["of_medians"]["mean"], np.median(values, axis=0).mean(), rtol=1e-6)
    spread = values.mean(0).std(ddof=1)  # Student's t of one degree of freedom: tan(0.95 pi / 2)
    np.testing.assert_allclose(error["ci95"], np.tan(0.475 * np.pi) * spread / 2**0.5, rtol=1e-4)
    assert len(results["best"]["step"]) == 2 and values[:, 0].tolist() != values[:, 1].tolist()


@pytest.mark.slow
def test_a_seed_among_others_is_the_seed_alone(sine, run_experiment, tmp_path):
    """Seed 1 of the run of two, and a run of --seed=1: the same start, the same tasks."""
    workdir, results = sine
    alone = [flag for flag in SINE if not flag.startswith("--num_seeds")]
    process = run_experiment("learned_optimizers", *alone, "--seed=1", f"--workdir={tmp_path / 'alone'}")
    single = last_line(process)
    assert single["eval"]["seeds"] is None
    assert results["best"]["step"][1] == single["best"]["step"]
    together, separate = load(workdir, seed=1)[1], load(tmp_path / "alone")[1]
    np.testing.assert_allclose(
        together.meta["params"]["head"]["kernel"], separate.meta["params"]["head"]["kernel"], rtol=2e-4
    )
    np.testing.assert_allclose(
        np.load(workdir / "eval.npz")["squared_error"][:, 1],
        np.load(tmp_path / "alone" / "eval.npz")["squared_error"],
        rtol=1e-3,
    )
    with pytest.raises(ValueError, match="trained 2, counted from 0"):
        load(workdir, seed=2)


@pytest.mark.slow
def test_images(run_experiment, tmp_path):
    """The transfer baseline without pre-training, which takes no outer step."""
    own = [flag for flag in IMAGES if not flag.startswith(("--steps", "--eval_every", "--validation"))]
    results = last_line(
        run_experiment("learned_optimizers", *own, "--algorithm=scratch", f"--workdir={tmp_path}")
    )
    assert results["algorithm"] == "scratch" and results["steps"] == 0
    assert 0 <= results["eval"]["metrics"]["accuracy"]["mean"] <= 1


@pytest.mark.slow
def test_across_domains(run_experiment, tmp_path):
    """Pre-trained on one folder of images, tested on another with another number of classes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, classes in (("here", 20), ("there", 25)):
        for index in range(classes):
            folder = tmp_path / name / f"class{index}"
            os.makedirs(folder)
            for number in range(3):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    common = [flag for flag in IMAGES if not flag.startswith("--dataset")]
    common = [*common, "--dataset=folder", "--image_size=16", "--algorithm=baseline_pp"]
    trained = tmp_path / "trained"
    last_line(run_experiment(
        "learned_optimizers", *common, f"--data_dir={tmp_path / 'here'}", f"--workdir={trained}"
    ))  # fmt: skip
    tested = [
        flag
        for flag in common
        if flag.split("=")[0]
        in (
            "--way",
            "--shot",
            "--query",
            "--filters",
            "--eval_tasks",
            "--dataset",
            "--image_size",
            "--algorithm",
        )
    ]
    results = last_line(run_experiment(
        "learned_optimizers", *tested, f"--data_dir={tmp_path / 'there'}", "--eval_only",
        f"--init_from={trained}", f"--workdir={tmp_path / 'tested'}",
    ))  # fmt: skip
    assert results["steps"] == 0 and len(np.load(tmp_path / "tested" / "eval.npz")["accuracy"]) == 6


def test_the_algorithms_own_settings():
    assert settings("--algorithm=maml").inner_steps == 5 and settings("--algorithm=meta_lstm").meta_batch == 1
    assert settings("--algorithm=turtle", "--inner_steps=3").inner_steps == 3
    images = settings("--dataset=glyphs", "--algorithm=maml")
    assert (images.test_inner_steps, images.filters) == (10, 64) and settings().filters == 40
    scratch = settings("--dataset=glyphs", "--algorithm=scratch")
    assert (scratch.steps, scratch.norm, scratch.inner_lr) == (0, "batch", 0.001)
    with pytest.raises(UsageError, match="classifies images"):
        settings("--algorithm=finetune")


@pytest.mark.parametrize(
    "arguments",
    [("--algorithm=maml", "--hidden_layers=3"), ("--algorithm=turtle", "--inner_lr=0.1"),
     ("--algorithm=fomaml", "--order=first"), ("--algorithm=turtle", "--gradient_divisor=2"),
     ("--dataset=glyphs", "--algorithm=finetune", "--meta_batch=2"), ("--nopadded",),
     ("--dataset=glyphs", "--algorithm=scratch", "--steps=5")],
)  # fmt: skip
def test_unused_flags(arguments):
    with pytest.raises(UsageError, match="has no meaning here"):
        settings(*arguments)


def test_presets_cover_the_papers_rows():
    presets = learned_optimizers.EXPERIMENT.presets
    assert sum(name.startswith("table3_1") for name in presets) == 9 * 4
    assert sum(name.startswith("table3_4") for name in presets) == 9 * 4
    assert sum(name.startswith("figure3_2") for name in presets) == 3 * (2 + 2 * 6)
    assert sum(name.startswith("figure3_3") for name in presets) == 6
    turtle = presets["figure3_3_turtle"]
    assert (
        turtle["steps"] * turtle["meta_batch"] == 70000
        and turtle["eval_every"] * turtle["meta_batch"] == 2500
    )
    for name in presets:
        settings(f"--preset={name}", *(["--init_from=x"] if presets[name].get("eval_only") else []))


def test_the_rule_follows_the_flags():
    one_step = rule("--inner_steps=1")
    assert one_step["inputs"] == ["gradient"] and one_step["name"] == "turtle"  # not clipped
    clipped = rule("--inputs=gradient,step", "--nolearn_rates", "--inner_clip=3")
    own = clipped["rule"]
    assert (own["inputs"], own["learn_rates"], clipped["limit"]) == (["gradient", "step"], False, 3.0)
    lstm = rule("--algorithm=meta_lstm", "--dataset=glyphs", "--shot=2")
    assert (lstm["inputs"], lstm["gradient_divisor"]) == ("loss_and_gradient", 10.0)


@pytest.mark.parametrize("figure", ["3.2", "3.3"])
def test_the_study_draws_its_figure(figure, tmp_path):
    point = {"median": 1.0, "median_ci95": 0.1, "validation": 1.0, "validation_ci95": 0.1}
    wanted = "figure" + figure.replace(".", "_")
    points = {name: point for name in learned_optimizers.EXPERIMENT.presets if name.startswith(wanted)}
    assert sine_study.draw(points, tmp_path / "study.png", figure).stat().st_size > 10000


def test_a_test_task_that_overflowed_counts_as_the_largest_loss_if_updates_are_skipped(monkeypatch):
    values = {"squared_error": np.array([[1.0, np.nan], [2.0, 1.0], [3.0, 2.0]])}
    monkeypatch.setattr(runner, "evaluate", lambda *arguments, **options: values)

    def measure(skip_nonfinite):
        settings = Settings({"skip_nonfinite": skip_nonfinite})
        run = runner.Run(settings, learned_optimizers.EXPERIMENT, None, {}, None)
        return run._test(None, None, None, 3)

    error = summarize_tasks(measure(True), seeds=2)["metrics"]["squared_error"]
    assert error["of_medians"] == {"mean": 2.0, "median": 2.0, "ci95": 0.0}
    with pytest.raises(NonFiniteError, match="squared_error is nan on 1 of 6 tasks, first on task 0, seed 1"):
        measure(False)


def test_the_study_leaves_out_a_point_that_fails_and_one_that_is_not_whole(monkeypatch, tmp_path, capsys):
    def run_row(experiment, flags, preset, workdir, minutes):
        assert experiment.name == "learned_optimizers" and "--num_seeds=2" in flags
        if preset == "figure3_3_turtle":
            return 3
        steps = int(dict(flag.split("=") for flag in flags)["--steps"])
        error = {"mean": 0.5, "ci95": 1.3, "of_medians": {"mean": 0.3, "ci95": 0.1, "median": 0.3}}
        results = {
            "steps": steps - (preset == "figure3_3_fomaml"),
            "eval": {"metrics": {"squared_error": error}},
            "best": {"metrics": {"squared_error": [0.5, 0.7]}},
            "train": {"seconds": 1.0},
        }
        workdir.mkdir(parents=True)
        (workdir / "results.json").write_text(json.dumps(results))
        return 0

    monkeypatch.setattr(sine_study, "run_row", run_row)
    flags = ["", "--figure=3.3", "--num_seeds=2", "--tasks=20001", f"--output={tmp_path}"]
    assert sine_study.main(parse(sine_study.EXPERIMENT, flags)) == 0
    points = json.loads((tmp_path / "study_3_3.json").read_text())["points"]
    assert points.keys() == {f"figure3_3_{name}" for name in ("maml", "meta_lstm", "meta_lstm_enhanced",
                                                             "turtle_first_order")}  # fmt: skip
    assert "figure3_3_turtle: failed, exit status 3" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--num_seeds=1"):
        sine_study.main(parse(sine_study.EXPERIMENT, ["", "--num_seeds=1"]))
