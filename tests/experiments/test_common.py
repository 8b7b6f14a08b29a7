"""The command line's contract: flags, presets, identity, exit codes. Nothing here needs jax."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from experiments import comln, maml
from experiments.common import (
    Experiment,
    Flag,
    UsageError,
    default_workdir,
    help_text,
    identity,
    in_flags,
    launch,
    parse,
    parse_drops,
    shared,
    strict,
    write_json,
)

TOY = Experiment(
    name="toy",
    summary="A toy.",
    flags=shared("steps", "seed", "shot", "workdir", "preset", "data_dir", steps=7)
    | {"colour": Flag("enum", "red", "which colour", ("red", "blue"))},
    presets={"table1": {"steps": 100, "colour": "blue"}},
    run=lambda settings: 0,
    stray=lambda settings: {"shot": "toys have no shots"} if settings.colour == "red" else {},
)


def parsed(*arguments):
    return parse(TOY, ["toy", *arguments])


def exit_status(experiment, *arguments):
    with pytest.raises(SystemExit) as caught:
        launch(experiment, ["toy", *arguments])
    return caught.value.code


def test_explicit_flags_go_before_the_preset_and_that_before_defaults():
    assert (parsed().steps, parsed().colour) == (7, "red")
    settings = parsed("--preset=table1", "--steps=3")
    assert (settings.steps, settings.colour, settings.seed) == (3, "blue", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stesp=3"], "stesp"),
        (["--steps=many"], "many"),
        (["--colour=green"], "green"),
        (["extra"], "unexpected argument 'extra'"),
        (["--preset=table9"], "no such preset"),
        (["--shot=2"], "toys have no shots"),
        (["--steps=-1"], "--steps=-1; expected at least 0"),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_2(arguments, message, capsys):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        parsed(*arguments)
    assert exit_status(TOY, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and message in printed.err


def test_a_bug_is_not_dressed_up_as_a_usage_error():
    def run(settings):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        launch(TOY._replace(run=run), ["toy"])


def test_exit_codes_of_the_contract():
    from jmeta.data.errors import DataError
    from jmeta.outer.checkpoint import IdentityError
    from jmeta.outer.loop import NonFiniteError

    for error, code in ((DataError("missing"), 2), (IdentityError("other"), 2), (NonFiniteError("nan"), 3)):

        def run(settings, error=error):
            raise error

        assert exit_status(TOY._replace(run=run)) == code
    assert exit_status(TOY._replace(run=lambda settings: 143)) == 143


def test_the_identity_is_what_changes_the_numbers(tmp_path):
    base = identity("toy", parsed())
    assert base == identity("toy", parsed("--steps=100", "--workdir=w", "--data_dir=d"))
    assert base != identity("toy", parsed("--seed=1"))
    assert "chunk" not in identity("comln", parse(comln.EXPERIMENT, ["comln", "--chunk=2"]))
    assert base != identity("other", parsed())
    assert default_workdir("toy", parsed("--workdir=w")).name == "w"
    assert default_workdir("toy", parsed()) == default_workdir("toy", parsed("--steps=9"))
    assert default_workdir("toy", parsed()) != default_workdir("toy", parsed("--seed=1"))


def test_a_preset_and_its_values_spelt_out_are_the_same_run():
    spelt_out = parsed("--steps=100", "--colour=blue")
    assert identity("toy", parsed("--preset=table1")) == identity("toy", spelt_out)


def test_json_is_written_whole(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"steps": 1})
    write_json(path, {"steps": 2})
    assert json.loads(path.read_text()) == {"steps": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_json_has_no_infinity(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"flags": {"horizon": float("inf"), "drops": [(1, float("-inf"))], "ok": True}})

    def refuse(name):
        raise AssertionError(name)

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "flags": {"horizon": "inf", "drops": [[1, "-inf"]], "ok": True}
    }
    assert strict(float("nan")) == "nan"
    settings = parse(comln.EXPERIMENT, ["comln", "--horizon=inf", "--ridge=0.1"])
    assert identity("comln", settings)["horizon"] == "inf"


def test_the_library_speaks_of_arguments_and_an_entry_point_of_flags(capsys):
    say = lambda message: in_flags(message, comln.FLAGS)  # noqa: E731
    assert say("with data_dir or JMETA_DATA") == "with --data_dir or JMETA_DATA"
    assert say("allow the download with download=True") == "allow the download with --download"
    assert say("lower way or use rotations=True") == "lower way or use --rotations"
    assert say("image_size is 3, horizon=2.0") == "--image_size is 3, --horizon=2.0"
    for untouched in ("--data_dir=x", "/tmp/data_dir/x", "log_horizon is nan", "the seed of a split",
                      "--grid=image_size=3,solver_steps=1:2", "each of 'image_size'"):  # fmt: skip
        assert say(untouched) == untouched

    def run(settings):
        from jmeta.data.errors import DataError

        raise DataError("no data found", "/x", "name the folder with data_dir")

    assert exit_status(TOY._replace(run=run)) == 2
    assert "with --data_dir" in capsys.readouterr().err


def test_help_explains_the_choices_that_are_left():
    text = help_text(comln.EXPERIMENT)
    assert "sinusoid" not in text and "per_step" not in text
    text = help_text(maml.EXPERIMENT)
    assert "\n      per_step: running averages of each inner step\n" in text


def test_learning_rate_drops():
    assert parse_drops("20:0.5,30:0.1") == ((20, 0.5), (30, 0.1))
    assert parse_drops("") == ()
    with pytest.raises(UsageError, match="expected step:rate"):
        parse_drops("20")


@pytest.mark.parametrize("experiment", [comln.EXPERIMENT, maml.EXPERIMENT])
def test_every_preset_parses_and_every_flag_is_explained(experiment):
    text = help_text(experiment)
    for name, flag in experiment.flags.items():
        assert f"--{name}: {flag.help}" in text
    for name, values in experiment.presets.items():
        settings = parse(experiment, [experiment.name, f"--preset={name}"])
        assert {flag: getattr(settings, flag) for flag in values} == values
        stray = experiment.stray(settings)
        assert not stray.keys() & values.keys(), f"{name} sets flags without a meaning"


def test_comln_has_a_preset_for_each_of_its_published_rows():
    from jmeta.report.published import published

    rows = published(method="COMLN")
    assert len(rows) == sum(name.startswith("table") for name in comln.EXPERIMENT.presets) == 14


@pytest.mark.parametrize(
    ("preset", "accuracy"),
    [
        ("table2_mini_imagenet_conv4_1shot", 53.01),
        ("table2_tiered_imagenet_resnet12_5shot", 81.13),
        ("table4_rk_5shot", 70.54),
        ("table4_euler_5shot", 70.50),
        ("table5_1shot", 50.39),
    ],
)
def test_a_preset_knows_its_published_row(preset, accuracy):
    row = comln.published_row(parse(comln.EXPERIMENT, ["comln", f"--preset={preset}"]))
    assert row["accuracy"]["mean"] == accuracy


def test_data_without_a_published_row_has_none():
    assert comln.published_row(parse(comln.EXPERIMENT, ["comln", "--dataset=features"])) is None


@pytest.mark.parametrize(
    ("module", "arguments", "flag"),
    [
        (comln, ["--step_size=0.1"], "step_size"),
        (comln, ["--solver=euler", "--step_size=0.1", "--rtol=1e-3"], "rtol"),
        (comln, ["--data_dir=somewhere"], "data_dir"),
        (comln, ["--drop_block=0.1"], "drop_block"),
        (comln, ["--backbone=resnet12", "--filters=8"], "filters"),
        (comln, ["--horizon=inf", "--ridge=0.1", "--rtol=1e-3"], "rtol"),
        (comln, ["--eval_only", "--init_from=w", "--learning_rate=1"], "learning_rate"),
        (maml, ["--algorithm=fomaml", "--order=exact"], "order"),
        (maml, ["--dataset=sinusoid", "--way=3"], "way"),
        (maml, ["--remat=none"], "remat"),
        (maml, ["--dataset=sinusoid", "--norm=running"], "norm"),
        (comln, ["--dataset=features", "--norm=running"], "norm"),
        (comln, ["--eval_every=0", "--validation_tasks=9"], "validation_tasks"),
        (comln, ["--eval_only", "--init_from=w", "--seed=1"], "seed"),
    ],
)
def test_a_flag_without_a_meaning_is_an_error(module, arguments, flag):
    with pytest.raises(UsageError, match=f"--{flag}=.*has no meaning here"):
        parse(module.EXPERIMENT, ["x", *arguments])


def test_help_imports_neither_jax_nor_the_library():
    code = (
        "import sys\nfrom experiments.comln import EXPERIMENT\nfrom experiments.common import launch\n"
        "try:\n    launch(EXPERIMENT, ['comln', '--help'])\nexcept SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "heavy = {'jax', 'numpy', 'flax', 'jmeta'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--horizon" in done.stdout and "table2_mini_imagenet_conv4_1shot" in done.stdout


def test_settings_are_plain_values():
    assert isinstance(parsed(), SimpleNamespace)
    json.dumps(vars(parse(comln.EXPERIMENT, ["comln"])))
