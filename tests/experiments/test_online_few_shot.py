"""Online few-shot streams through the command line."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import maml, online_few_shot
from experiments.cli import parse
from experiments.errors import UsageError
from experiments.parts import Parts
from experiments.runner import Run, start
from jmeta.models.conv_encoder import conv_encoder
from jmeta.outer.load import load, spec_of_adapter
from jmeta.registry import entry
from jmeta.report.published import row_for
from jmeta.types import LearnerState

TINY = (
    "--dataset=folder --image_size=16 --way=3 --presentations=3 --hidden=4 --meta_batch=2 --steps=6 "
    "--curriculum=2 --curriculum_every=3 --eval_every=2 --validation_tasks=6 --eval_tasks=6 "
    "--checkpoint_every=2 --log_every=1"
).split()


def settings(*arguments):
    return parse(online_few_shot.EXPERIMENT, ["", *arguments])


def published_row(chosen):
    fields = online_few_shot.published_row(chosen)
    return fields and row_for(**fields)


@pytest.fixture
def composed(monkeypatch, tmp_path):
    """`composed(*arguments)`: the arguments with which a run trains, its spec as "spec"."""
    monkeypatch.setattr(Run, "fit_episodes", lambda self, spec, source, **parts: {"spec": spec, **parts})

    def compose(*arguments):
        run = Run(settings(*arguments), online_few_shot.EXPERIMENT, tmp_path, {}, math.inf)
        return online_few_shot.main(run)

    return compose


@pytest.mark.slow
def test_a_run_reports_accuracy_by_shot_and_is_loaded_again(run_experiment, image_folder, tmp_path):
    """Stopped within its curriculum and gone on with, it gives the run in one."""
    flags = [*TINY, f"--data_dir={image_folder}", "--algorithm=lstm"]
    whole = run_experiment("online_few_shot", *flags, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    results = json.loads(whole.stdout.strip().splitlines()[-1])
    assert {f"accuracy_{shot}_shot" for shot in range(3)} <= set(results["eval"]["metrics"])
    values = np.load(tmp_path / "whole" / "eval.npz")
    np.testing.assert_allclose(
        values["accuracy"], sum(values[f"accuracy_{shot}_shot"] for shot in range(3)) / 3, rtol=1e-5
    )
    assert (tmp_path / "whole" / "figures" / "accuracy_by_shot.png").stat().st_size > 5000
    for steps in (2, 6):
        part = run_experiment(
            "online_few_shot", *flags, f"--steps={steps}", f"--workdir={tmp_path / 'parts'}"
        )
        assert part.returncode == 0, part.stderr
    _, one = load(tmp_path / "whole")
    memory, other = load(tmp_path / "parts")
    assert (np.asarray(one.meta.head) == np.asarray(other.meta.head)).all()
    assert memory.step is not None


def test_memories_follow_the_flags(composed):
    def memory(*arguments):
        return spec_of_adapter(composed(*arguments)["spec"])

    spec = memory("--inject=all", "--filters=8")
    assert (spec["inject"], spec["filters"], spec["hidden"]) == ("all", 8, 256)
    assert memory("--algorithm=cnn_f_lstm", "--init_from=x")["name"] == "cnn_f_lstm"
    assert entry("memory", "cnn_f_lstm").fixed["frozen"]
    assert memory("--algorithm=opn", "--delay=3")["delay"] == 3
    staged = settings("--curriculum=2,5", "--curriculum_every=10")
    assert Parts(staged).curriculum(10, "presentations") == ((2, 10), (5, 20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--algorithm=opn", "--inject=all"), "has no meaning here"),
     (("--curriculum_every=5",), "no --curriculum"),
     (("--delay=0",), "at least 1"),
     (("--dataset=glyphs", "--standardize"), "drawn anew"),
     (("--algorithm=cnn_lstm", "--encoder_from=x", "--standardize"), "saw images as they are"),
     (("--algorithm=cnn_f_lstm", "--weight_decay=0.1"), "frozen encoder"),
     (("--algorithm=opn", "--encoder_from=x"), "opn has none")],
)  # fmt: skip
def test_unused_and_unusable_flags(arguments, message):
    with pytest.raises(UsageError, match=message):
        settings(*arguments)


@pytest.mark.parametrize("curriculum", ["1,2", "3,99", "two", "4,3", "3,3"])
def test_unusable_curricula(curriculum):
    with pytest.raises(UsageError, match="curriculum"):
        Parts(settings(f"--curriculum={curriculum}")).curriculum(10, "presentations")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--preset=table3_delay5_pretrained",), "give --init_from"),
     (("--preset=table2_cnn_lstm",), "give --encoder_from"),
     (("--algorithm=cnn_f_lstm",), "give --encoder_from")],
)  # fmt: skip
def test_a_trained_network_is_asked_for(arguments, message):
    def check(*more):
        names = ("algorithm", "preset", "encoder_from", "init_from")
        online_few_shot.check_origin(**settings(*arguments, *more).take(*names))

    with pytest.raises(UsageError, match=message):
        check()
    check("--init_from=x")


def test_every_preset_parses():
    for name in online_few_shot.EXPERIMENT.presets:
        settings(f"--preset={name}")
    assert len(online_few_shot.EXPERIMENT.presets) == 12 + 2 + 3 + 5 + 8


def test_presets_know_their_published_rows():
    presets = online_few_shot.EXPERIMENT.presets
    rows = {name: published_row(settings(f"--preset={name}")) for name in presets}
    assert rows["table1_omniglot_apl"]["accuracy_1_shot"]["mean"] == 89.1
    assert rows["table2_cl_lstm_lstm"]["accuracy_5_shot"]["mean"] == 97.3
    assert rows["table2_cl_lstm_first"]["accuracy_8_shot"]["mean"] == 99.7
    assert rows["table3_delay5"]["accuracy_8_shot"]["mean"] == 52.7
    assert all(row is None for name, row in rows.items() if name.startswith("small"))
    warm = settings("--preset=table3_delay5_pretrained", "--init_from=x")
    assert published_row(warm)["accuracy_8_shot"]["mean"] == 57.4


@pytest.mark.parametrize(
    ("preset", "other"),
    [("table1_omniglot_cl_lstm", other) for other in ("--hidden=8", "--skip=none", "--filters=32", "--way=6",
                                                      "--image_size=14", "--split=vinyals", "--inject=all",
                                                      "--presentations=9", "--dataset=folder")]
    + [("table3_delay2", "--inject=lstm"), ("table1_omniglot_lstm", "--hidden=64")],
)  # fmt: skip
def test_another_network_or_other_tasks_have_no_published_row(preset, other):
    assert published_row(settings(f"--preset={preset}")) is not None
    assert published_row(settings(f"--preset={preset}", other)) is None


def test_sizes_that_are_the_usual_ones_are_the_papers():
    same = settings("--preset=table1_omniglot_cl_lstm", "--hidden=256", "--image_size=28")
    assert published_row(same)["accuracy_1_shot"]["mean"] == 96.8


@pytest.mark.slow
def test_a_frozen_encoder_comes_from_maml(image_folder, monkeypatch, tmp_path):
    monkeypatch.setattr("jmeta.load", lambda workdir: (None, trained[workdir]))
    x = jnp.zeros((1, 16, 16, 1), jnp.float32)
    trained = {
        f"{filters} filters": LearnerState(0, {"params": dict(network), "rule": ()}, {}, (), None)
        for filters in (8, 16)
        for network in [jax.jit(conv_encoder(filters=filters, head=3).init)(jax.random.key(1), x)[0]]
    } | {"another": LearnerState(0, {"head": x}, {}, (), None)}
    flags = [*TINY, f"--data_dir={image_folder}", "--algorithm=cnn_f_lstm", "--filters=8",
             f"--workdir={tmp_path}", "--curriculum=", "--eval_every=0"]  # fmt: skip
    flags = [flag for flag in flags if "curriculum" not in flag and "validation" not in flag]
    with pytest.raises(UsageError, match="give --encoder_from=WORKDIR"):
        start(online_few_shot.EXPERIMENT, settings(*flags))
    for origin, message in (("16 filters", "encoder_from=16 filters: .*has shape"),
                            ("another", "learned no conv_encoder")):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            start(online_few_shot.EXPERIMENT, settings(*flags, f"--encoder_from={origin}"))
    assert start(online_few_shot.EXPERIMENT, settings(*flags, "--encoder_from=8 filters")) == 0
    _, after = load(tmp_path)
    before = trained["8 filters"].meta["params"]
    assert set(after.meta.encoder) == set(before) - {"head"}
    for name, layer in after.meta.encoder.items():
        for leaf, value in layer.items():
            np.testing.assert_array_equal(value, before[name][leaf])


def test_maml_offers_the_network_of_the_encoders():
    for name in ("encoder_omniglot", "encoder_cifar_fs"):
        chosen = parse(maml.EXPERIMENT, ["", f"--preset={name}"])
        assert Parts(chosen).backbone() == {"name": "conv_encoder", "filters": 64}


def test_standardized_images_have_mean_0_and_deviation_1_over_the_training_split(image_folder, composed):
    flags = [*TINY, f"--data_dir={image_folder}", "--algorithm=lstm"]
    plain, standardized = (composed(*flags, *more) for more in ((), ("--standardize",)))
    scale = spec_of_adapter(standardized["spec"])
    keys = jax.random.split(jax.random.key(0), 200)
    x = np.asarray(jax.vmap(standardized["train"])(keys).x, np.float64)
    assert x.min() >= 0 and x.max() <= 1  # the network standardizes
    channels = ((x - scale["mean"]) / scale["std"]).reshape(-1, x.shape[-1])
    np.testing.assert_allclose(channels.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(channels.std(0), 1, atol=0.1)
    assert "mean" not in spec_of_adapter(plain["spec"])


@pytest.mark.slow
def test_a_run_from_a_standardized_run_standardizes(run_experiment, image_folder, tmp_path):
    flags = [*TINY, f"--data_dir={image_folder}", "--algorithm=lstm"]
    origin = run_experiment("online_few_shot", *flags, "--standardize", f"--workdir={tmp_path / 'origin'}")
    assert origin.returncode == 0, origin.stderr
    part = run_experiment("online_few_shot", *flags, f"--init_from={tmp_path / 'origin'}")
    assert part.returncode == 2 and "give --standardize" in part.stderr
