"""The command line's contract: flags, presets, identity, exit codes. Nothing here needs jax."""

import json
import re
import subprocess
import sys

import pytest

from experiments import comln, continual, few_shot, flags, maml, reproduce, supervised
from experiments.arguments import matching, near_names
from experiments.cli import launch, parse, unused_flags
from experiments.errors import UsageError, as_flags
from experiments.flags import Flag, whole_number
from experiments.help import WIDTH, help_text, short_help_text
from experiments.preset_list import list_presets, pattern_of
from experiments.settings import Experiment, parse_drops
from experiments.workdir import default_workdir, run_identity, strict, write_json
from jmeta import registry

TOY = Experiment(
    name="toy",
    summary="A toy.",
    flags=flags.pick("steps", "seed", "shot", "workdir", "preset", "data_dir", defaults={"steps": 7},
                     when={"shot": (flags.Unless("color", ("red",), "toys have no shots"),)})
    | {"color": Flag("enum", "red", "a color", ("red", "blue")), "loud": Flag("boolean", False, "a sound")},
    main=lambda run: 0,
    presets={"table1": {"steps": 100, "color": "blue"}},
)  # fmt: skip


def parsed(*arguments):
    return parse(TOY, ["toy", *arguments])


@pytest.fixture(autouse=True)
def runs_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def exit_status(experiment, *arguments):
    with pytest.raises(SystemExit) as caught:
        launch(experiment, ["toy", *arguments])
    return caught.value.code


def test_explicit_flags_go_before_the_preset_and_that_before_defaults():
    assert (parsed().steps, parsed().color) == (7, "red")
    settings = parsed("--preset=table1", "--steps=3")
    assert (settings.steps, settings.color, settings.seed) == (3, "blue", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stesp=3"], "stesp"),
        (["--steps=many"], "many"),
        (["--color=green"], "green"),
        (["extra"], "unexpected argument 'extra'"),
        (["--preset=table9"], "no such preset"),
        (["--preset=tabel1"], "did you mean table1?"),
        (["--preset="], "--preset= is empty"),
        (["--workdir= "], "is empty"),
        (["--colour=red"], "--colour: no such flag; --help lists the flags; did you mean --color?"),
        (["--color=bleu"], "expected one of red, blue; did you mean blue?"),
        (["--steps=1.5"], "--steps=1.5; expected a whole number"),
        (["--steps=1e30"], "--steps=1e30; expected a whole number"),
        (["--seed=\u0663"], "expected a whole number"),
        (["--loud=maybe"], "--loud=maybe; expected true or false (--loud, --noloud)"),
        (["--noloud=1"], "does not take an argument"),
        (["--steps"], "Missing value"),
        (["--shot=2"], "toys have no shots"),
        (["--steps=-1"], "--steps=-1; expected at least 0"),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_2(arguments, message, capsys):
    with pytest.raises(UsageError, match=re.escape(message)):
        parsed(*arguments)
    assert exit_status(TOY, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and message in printed.err


def test_a_bug_is_not_dressed_up_as_a_usage_error():
    def run(_):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        launch(TOY._replace(main=run), ["toy"])


def test_exit_codes_of_the_contract():
    from jmeta.data.errors import DataError
    from jmeta.outer.checkpoint import IdentityError
    from jmeta.outer.finite import NonFiniteError

    for error, code in ((DataError("missing"), 2), (IdentityError("other"), 2), (NonFiniteError("nan"), 3)):

        def run(_, error=error):
            raise error

        assert exit_status(TOY._replace(main=run)) == code
    assert exit_status(TOY._replace(main=lambda run: 143)) == 143


def test_the_identity_is_what_changes_the_numbers(tmp_path):
    base = run_identity(TOY, parsed())
    assert base == run_identity(TOY, parsed("--steps=100", "--workdir=w", "--data_dir=d"))
    assert base != run_identity(TOY, parsed("--seed=1"))
    assert "chunk" not in run_identity(comln.EXPERIMENT, parse(comln.EXPERIMENT, ["comln", "--chunk=2"]))
    assert base != run_identity(TOY._replace(name="other"), parsed())
    assert default_workdir(TOY, parsed("--workdir=w")).name == "w"
    assert default_workdir(TOY, parsed()) == default_workdir(TOY, parsed("--steps=9"))
    assert default_workdir(TOY, parsed()) != default_workdir(TOY, parsed("--seed=1"))


def test_a_preset_and_its_values_spelled_out_are_the_same_run():
    spelled_out = parsed("--steps=100", "--color=blue")
    assert run_identity(TOY, parsed("--preset=table1")) == run_identity(TOY, spelled_out)


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
    assert run_identity(comln.EXPERIMENT, settings)["horizon"] == "inf"


def test_the_library_speaks_of_arguments_and_an_entry_point_of_flags(capsys):
    say = lambda message: as_flags(message, comln.EXPERIMENT.flags)  # noqa: E731
    assert say("with data_dir or JMETA_DATA") == "with --data_dir or JMETA_DATA"
    assert say("allow the download with download=True") == "allow the download with --download"
    assert say("lower way or use rotations=True") == "lower way or use --rotations"
    assert say("seed is 3 now and 0 there; way is 5 now and 2 there") == (
        "--seed is 3 now and 0 there; --way is 5 now and 2 there"
    )
    assert say("image_size is 3, horizon=2.0") == "--image_size is 3, --horizon=2.0"
    for untouched in ("--data_dir=x", "/tmp/data_dir/x", "log_horizon is nan", "the seed of a split",
                      "--grid=image_size=3,solver_steps=1:2", "each of 'image_size'"):  # fmt: skip
        assert say(untouched) == untouched

    def run(_):
        from jmeta.data.errors import DataError

        raise DataError("no data found", "/x", "name the folder with data_dir")

    assert exit_status(TOY._replace(main=run)) == 2
    assert "with --data_dir" in capsys.readouterr().err


def test_help_explains_the_choices_that_are_left():
    text = help_text(comln.EXPERIMENT)
    assert "sinusoid" not in text and "per_step" not in text
    text = help_text(maml.EXPERIMENT)
    assert "per_step: running averages of each inner step\n" in text


def test_learning_rate_drops():
    assert parse_drops("20:0.5,30:0.1") == ((20, 0.5), (30, 0.1))
    assert parse_drops("") == ()
    with pytest.raises(UsageError, match="expected step:rate"):
        parse_drops("20")


@pytest.mark.parametrize("experiment", [comln.EXPERIMENT, maml.EXPERIMENT, few_shot.EXPERIMENT])
def test_every_preset_parses_and_every_flag_is_explained(experiment):
    text = " ".join(help_text(experiment).split())
    for name, flag in experiment.flags.items():
        assert re.search(rf"--(\[no\])?{name}\b", text) and re.sub(r" \[[^]]*\]$", "", flag.help) in text
    for name, values in experiment.presets.items():
        settings = parse(experiment, [experiment.name, f"--preset={name}"])
        assert {flag: getattr(settings, flag) for flag in values} == values
        unused = unused_flags(experiment, settings)
        assert not unused.keys() & values.keys(), f"{name} sets flags without a meaning"


def test_comln_has_a_preset_for_each_of_its_published_rows():
    from jmeta.report.published import published_rows

    rows = published_rows(method="COMLN")
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
    from jmeta.report.published import row_for

    settings = parse(comln.EXPERIMENT, ["comln", f"--preset={preset}"])
    assert row_for(**few_shot.published_row("comln", settings))["accuracy"]["mean"] == accuracy


def test_data_without_a_published_row_has_none():
    from jmeta.report.published import row_for

    settings = parse(comln.EXPERIMENT, ["comln", "--dataset=features"])
    assert row_for(**few_shot.published_row("comln", settings)) is None


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
        "import sys\nfrom experiments.comln import EXPERIMENT\nfrom experiments.cli import launch\n"
        "try:\n    launch(EXPERIMENT, ['comln', '--help'])\nexcept SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "heavy = {'jax', 'numpy', 'flax', 'jmeta.types'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--horizon" in done.stdout and "table2_mini_imagenet_conv4_1shot" not in done.stdout
    assert "--preset=list" in done.stdout


def test_a_run_says_what_it_is_before_it_imports_jax():
    code = (
        "import sys\nfrom experiments.comln import EXPERIMENT\nfrom experiments.cli import launch\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'jax':\n            print('import jax', file=sys.stderr, flush=True)\n"
        "            sys.exit(0)\n"
        "sys.meta_path.insert(0, Finder())\nlaunch(EXPERIMENT, ['comln', '--workdir=w'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines() == [
        "experiments.comln: comln on glyphs 5-way 1-shot, seed 0", "workdir w; loading jax", "import jax",
    ]  # fmt: skip


def test_help_has_headings_and_the_values_in_force():
    text = help_text(continual.EXPERIMENT, {"algorithm": "mer"})
    headings = re.findall(r"^([A-Z].*):$", text, re.MULTILINE)
    assert headings == ["Algorithm", "Data", "Network", "Stream and method", "Learning", "Running"]
    assert "--within=0.01 " in text and "--inner_rate" not in text
    assert "flags that mer does not have are left out" in " ".join(text.split())
    undecided = " ".join(help_text(continual.EXPERIMENT).split())
    assert "[0.3 for la_maml; 0.1 for la_maml_sync]" in undecided
    preset = {"preset": "table2_mini_imagenet_resnet12_5shot"}
    assert "--backbone=resnet12" in help_text(comln.EXPERIMENT, preset)
    assert not re.search(r"outer|inner loop|log T", help_text(supervised.EXPERIMENT).lower())
    assert "--within" in short_help_text(continual.EXPERIMENT)


@pytest.mark.parametrize("name", [*reproduce.EXPERIMENTS, "reproduce"])
def test_help_and_presets_fit_80_columns_with_no_doubled_brackets(name):
    experiment = reproduce.EXPERIMENTS.get(name, reproduce.EXPERIMENT)
    text = help_text(experiment)
    lines = [*text.splitlines(), *short_help_text(experiment).splitlines(), *list_presets(experiment)]
    assert max(map(len, lines)) <= WIDTH
    assert "] [" not in " ".join(text.split())
    printed = " ".join(lines)
    assert all(preset in printed for preset in experiment.presets)


def test_help_is_never_refused(capsys):
    assert exit_status(TOY, "--help", "--color=green") == 0
    printed = capsys.readouterr()
    assert "--color=red" in printed.out and "expected one of red, blue" in printed.err
    assert exit_status(TOY, "--color=blue", "--helpshort") == 0
    assert exit_status(TOY, "--preset=table1", "--help") == 0
    assert "--steps=100" in capsys.readouterr().out


def test_presets_are_listed_with_the_numbers_of_their_rows():
    lines = list_presets(comln.EXPERIMENT, "table5*")
    assert [line.split() for line in lines if "table5_" in line] == [
        "COMLN 50.39 +- 0.63 table5_1shot".split(), "COMLN 70.06 +- 0.52 table5_5shot".split(),
    ]  # fmt: skip
    assert lines[0].startswith("Deleu et al.") and "Table 5: " in lines[1] and "accuracy in %" in lines[1]
    streams = "\n".join(list_presets(reproduce.EXPERIMENTS["online_few_shot"]))
    assert re.search(r"CL\+LSTM +96.80 \+- 0.57 +table2_cl_lstm_first", streams)
    assert re.search(r"CNN-F\+LSTM \(pre-trained\) +89.10", streams)
    osaka = "\n".join(list_presets(reproduce.EXPERIMENTS["osaka"]))
    assert re.search(r"c_maml +table6_stay98_c_maml_plain", osaka)  # the paper has no such row
    assert list_presets(comln.EXPERIMENT, "zzz") == []


def test_a_preset_may_be_a_pattern(capsys):
    assert [pattern_of(text) for text in (None, "a", "list", "list:", "list:b", "a*")] == [
        None, None, "*", "*", "b", "a*",
    ]  # fmt: skip
    for wish in ("list", "list:tab", "table*"):
        assert exit_status(TOY, f"--preset={wish}") == 0
        assert "table1" in capsys.readouterr().out
    assert exit_status(TOY, "--preset=tabel*") == 2
    assert "did you mean table1?" in capsys.readouterr().err


def test_near_names():
    names = ["table1_a", "table2_a", "small", "steps", "inner_lr"]
    assert near_names("tabel2", names) == ["table2_a"] and near_names("lr", names) == ["inner_lr"]
    assert near_names("stesp", names) == ["steps"] and near_names("zzz", names) == []
    assert matching("2_", names) == ["table2_a"] and matching("T*_a", names) == ["table1_a", "table2_a"]


def test_numbers_in_other_notations():
    assert (parsed("--steps=1e3").steps, parsed("--steps=1000.0").steps) == (1000, 1000)
    assert whole_number("9007199254740993") == 9007199254740993  # 2**53 + 1, no float
    assert parsed("--loud").loud and not parsed("--noloud").loud
    for text in ("\u0662:0.1", "2:\u0660.1", "1_0:0.1"):
        with pytest.raises(UsageError, match="expected step:rate"):
            parse_drops(text)


def test_settings_are_plain_values_and_immutable():
    settings = parsed()
    json.dumps(dict(settings))
    json.dumps(dict(parse(comln.EXPERIMENT, ["comln"])))
    with pytest.raises(AttributeError, match="resolved once"):
        settings.steps = 3
    with pytest.raises(AttributeError, match="no flag --slots"):
        settings.slots  # noqa: B018


def test_a_flag_that_only_another_algorithm_has_is_refused_by_name():
    for arguments, flag in ((["--algorithm=protonet", "--inner_lr=1"], "inner_lr"),
                            (["--algorithm=r2d2", "--horizon=2"], "horizon"),
                            (["--penalty=1"], "penalty")):  # fmt: skip
        with pytest.raises(UsageError, match=f"--{flag}=.*has no meaning here"):
            parse(few_shot.EXPERIMENT, ["few_shot", *arguments])


def test_numbers_are_checked_by_their_flags_range():
    for argument, words in (("--way=1", "expected at least 2"), ("--inner_lr=0", "expected more than 0"),
                            ("--drop_block=1", "less than 1"), ("--inner_lr=inf", "finite"),
                            ("--learning_rate=nan", "expected")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            parse(maml.EXPERIMENT, ["maml", "--backbone=resnet12", argument])
    assert parse(maml.EXPERIMENT, ["maml", "--clip_norm=inf"]).clip_norm == float("inf")


def test_the_default_row_of_an_algorithm_and_a_dataset():
    read = lambda *arguments: parse(few_shot.EXPERIMENT, ["few_shot", *arguments])  # noqa: E731
    assert (read().optimizer, read().learning_rate, read().meta_batch) == ("adam", 0.001, 4)
    comln_row = read("--algorithm=comln")
    assert (comln_row.optimizer, comln_row.learning_rate, comln_row.meta_batch) == ("sgd", 0.1, 8)
    assert read("--algorithm=comln", "--learning_rate=0.2").learning_rate == 0.2
    assert (read("--dataset=sinusoid").backbone, read().backbone) == ("mlp", "conv4")


@pytest.mark.parametrize("kind", ["head", "adapter", "memory", "online"])
def test_defaults_of_flags_are_those_of_the_factories(kind):
    """A setting that no default row sets has one default, wherever it is written."""
    import inspect

    for name, entry in registry.REGISTRY[kind].items():
        keywords = inspect.signature(registry.factory(kind, name)).parameters
        for setting in entry.settings:
            assert setting in flags.FLAGS, f"{name} has a setting {setting} that is no flag"
            default = flags.FLAGS[setting].default
            own = keywords[setting].default if setting in keywords else inspect.Parameter.empty
            if default is not None and own is not inspect.Parameter.empty and setting not in ROW_SETS:
                assert own == default, f"{name}: {setting}={own}, --{setting}={default}"


@pytest.mark.parametrize("algorithm", few_shot.ALGORITHMS)
def test_a_few_shot_algorithm_runs_with_the_defaults_of_its_factory(algorithm):
    import inspect

    settings = parse(few_shot.EXPERIMENT, ["few_shot", f"--algorithm={algorithm}"])
    kind = "head" if algorithm in registry.HEADS else "adapter"
    keywords = inspect.signature(registry.factory(kind, algorithm)).parameters
    for setting in registry.entry(kind, algorithm).settings:
        assert settings[setting] == keywords[setting].default, setting


# Settings whose defaults are by algorithm: a default row has them.
ROW_SETS = ("learning_rate", "inner_lr", "inner_steps", "filters", "hidden", "modulator_filters", "order",
            "clip_norm", "slots", "samples", "shot", "adapt_batch")  # fmt: skip
