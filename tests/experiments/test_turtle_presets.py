"""The published settings of the learned optimizers, through the command line parser."""

import pytest

from experiments import learned_optimizers
from experiments.cli import parse
from experiments.errors import UsageError
from experiments.presets.turtle import META_LEARNERS, PRESETS, TRANSFER


def settings(*arguments):
    return parse(learned_optimizers.EXPERIMENT, ["", *arguments])


@pytest.mark.parametrize(
    ("algorithm", "shot", "meta_batch", "inner_steps", "test_steps"),
    [("maml", 1, 4, 5, 10), ("maml", 5, 2, 5, 10), ("fomaml", 1, 4, 5, 10), ("fomaml", 5, 2, 5, 10),
     ("meta_lstm", 1, 1, 12, None), ("meta_lstm", 5, 1, 5, None),
     ("meta_lstm_enhanced", 1, 1, 8, None), ("meta_lstm_enhanced", 5, 1, 8, None),
     ("turtle", 1, 2, 5, None), ("turtle", 5, 2, 5, None), ("turtle_first_order", 5, 2, 5, None),
     ("finetune", 5, 1, 100, None)],
)  # fmt: skip
def test_settings_of_images_by_shot(algorithm, shot, meta_batch, inner_steps, test_steps):
    """The authors' commands; the default shot is 5."""
    resolved = settings(
        "--dataset=cub", f"--algorithm={algorithm}", *([] if shot == 5 else [f"--shot={shot}"])
    )
    assert (resolved.shot, resolved.meta_batch, resolved.inner_steps) == (shot, meta_batch, inner_steps)
    assert (resolved.test_inner_steps, resolved.query, resolved.padded) == (test_steps, 16, False)


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("algorithm", META_LEARNERS + TRANSFER)
def test_flags_alone_give_what_the_preset_says(algorithm, shot):
    """All but the lengths, which the presets count in tasks, and the seeds."""
    flags = settings("--dataset=mini_imagenet", f"--algorithm={algorithm}", f"--shot={shot}")
    preset = settings(f"--preset=table3_1_mini_imagenet_{shot}shot_{algorithm}")
    lengths = {"preset", "steps", "eval_every", "validation_tasks", "eval_tasks", "checkpoint_every",
               "log_every", "num_seeds", "skip_nonfinite"}  # fmt: skip
    assert {name for name, value in flags.items() if value != preset[name]} <= lengths


def test_settings_of_sine_waves_are_those_of_figure_3_3():
    for algorithm in META_LEARNERS:
        resolved = settings(f"--algorithm={algorithm}")
        preset = PRESETS[f"figure3_3_{algorithm}"]
        assert (resolved.meta_batch, resolved.inner_steps) == (preset["meta_batch"], preset["inner_steps"])
        assert (resolved.query, resolved.padded, resolved.test_inner_steps) == (15, True, None)


def test_small_images_are_padded_and_flags_go_first():
    assert settings("--dataset=glyphs").padded and settings("--dataset=cub", "--image_size=28").padded
    assert settings("--dataset=cub", "--padded").padded and settings("--dataset=cub", "--query=3").query == 3


def test_a_preset_is_refused_if_its_values_mean_nothing_for_the_algorithm():
    preset = "--preset=figure3_2_turtle_5steps_3layers"
    with pytest.raises(UsageError, match="--algorithm=maml with .*--hidden_layers=3: maml has none"):
        settings(preset, "--algorithm=maml")
    assert settings(preset, "--algorithm=turtle_first_order").hidden_layers == 3
    assert settings("--preset=figure3_3_maml", "--algorithm=turtle").inner_steps == 5


def test_only_training_skips_updates():
    with pytest.raises(UsageError, match="--eval_only trains nothing"):
        settings("--skip_nonfinite", "--eval_only", "--init_from=x")
    assert settings("--preset=table3_1_cub_5shot_turtle").skip_nonfinite
