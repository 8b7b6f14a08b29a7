"""Online few-shot streams through the command line."""

import json

import numpy as np
import pytest

from experiments import online_few_shot
from experiments.common import UsageError, parse
from experiments.tasks import stages
from jmeta.outer.load import load

TINY = (
    "--dataset=glyphs --way=3 --presentations=3 --hidden=4 --meta_batch=2 --steps=6 --curriculum=2 "
    "--curriculum_every=3 --eval_every=2 --validation_tasks=4 --eval_tasks=6 --checkpoint_every=2 "
    "--log_every=1"
).split()


def settings(*arguments):
    return parse(online_few_shot.EXPERIMENT, ["", *arguments])


@pytest.mark.slow
def test_a_run_reports_accuracy_by_shot_and_is_loaded_again(run_experiment, tmp_path):
    """Stopped within its curriculum and gone on with, it gives the run in one."""
    flags = [*TINY, "--algorithm=lstm"]
    whole = run_experiment("online_few_shot", *flags, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    results = json.loads(whole.stdout.strip().splitlines()[-1])
    assert {f"accuracy_{shot}_shot" for shot in range(3)} <= set(results["eval"]["metrics"])
    values = np.load(tmp_path / "whole" / "eval.npz")
    np.testing.assert_allclose(
        values["accuracy"], sum(values[f"accuracy_{shot}_shot"] for shot in range(3)) / 3, rtol=1e-5
    )
    assert (tmp_path / "whole" / "figures" / "accuracy_by_shot.png").stat().st_size > 5000
    for steps in (2, 4, 6):
        part = run_experiment(
            "online_few_shot", *flags, f"--steps={steps}", f"--workdir={tmp_path / 'parts'}"
        )
        assert part.returncode == 0, part.stderr
    _, one = load(tmp_path / "whole")
    memory, other = load(tmp_path / "parts")
    assert (np.asarray(one.meta.head) == np.asarray(other.meta.head)).all()
    assert memory.step is not None


def test_memories_follow_the_flags():
    recipe = online_few_shot.memory_recipe(settings("--inject=all", "--filters=8"))
    assert (recipe["inject"], recipe["filters"], recipe["hidden"]) == ("all", 8, 256)
    assert online_few_shot.memory_recipe(settings("--algorithm=cnn_f_lstm"))["frozen"]
    assert online_few_shot.memory_recipe(settings("--algorithm=opn", "--delay=3"))["delay"] == 3
    staged = settings("--curriculum=2,5", "--curriculum_every=10")
    assert stages(staged, 10, "presentations") == ((2, 10), (5, 20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--algorithm=opn", "--inject=all"), "has no meaning here"),
     (("--curriculum_every=5",), "no --curriculum"),
     (("--delay=0",), "at least 1")],
)  # fmt: skip
def test_stray_and_unusable_flags(arguments, message):
    with pytest.raises(UsageError, match=message):
        settings(*arguments)


@pytest.mark.parametrize("curriculum", ["1,2", "3,99", "two"])
def test_unusable_curricula(curriculum):
    with pytest.raises(UsageError, match="curriculum"):
        stages(settings(f"--curriculum={curriculum}"), 10, "presentations")


def test_every_preset_parses():
    for name in online_few_shot.EXPERIMENT.presets:
        settings(f"--preset={name}")
    assert len(online_few_shot.EXPERIMENT.presets) == 10 + 2 + 3 + 5 + 7
