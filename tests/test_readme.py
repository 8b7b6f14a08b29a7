"""The README's code runs as it stands."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import jmeta

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_commands_it_names_exist():
    text = README.read_text()
    for module in set(re.findall(r"python -m (experiments(?:\.\w+)+)", text)):
        assert (README.parent / (module.replace(".", "/") + ".py")).is_file(), module
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", text, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_preset_it_names_exists():
    commands = re.findall(r"python -m (experiments\.\w+) .*--preset=(\w+)", README.read_text())
    assert len(commands) >= 2
    for module, name in commands:
        assert name in import_module(module).EXPERIMENT.presets


def test_public_names_are_no_folders():
    """Importing a subpackage would put it in the place of a function of the same name."""
    folders = {path.name for path in (README.parent / "jmeta").iterdir() if path.is_dir()}
    assert not folders & set(jmeta.__all__)
    assert all(callable(getattr(jmeta, name)) for name in jmeta.__all__)


@pytest.fixture
def untrained(run_experiment, tmp_path):
    """The workdir of a run that took no step."""
    flags = [
        "--algorithm=anil",
        "--dataset=glyphs",
        "--filters=4",
        "--query=2",
        "--steps=0",
        "--eval_every=0",
    ]
    done = run_experiment("maml", *flags, "--eval_tasks=2", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    return tmp_path


@pytest.fixture
def untrained_rule(run_experiment, tmp_path_factory):
    """The workdir of a run with a learned rule that took no step."""
    workdir = tmp_path_factory.mktemp("turtle")
    flags = ["--algorithm=turtle", "--nolearn_rates", "--steps=0", "--eval_every=0", "--eval_tasks=2"]
    done = run_experiment("learned_optimizers", *flags, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.slow
def test_its_code_blocks_run(untrained, untrained_rule, enable_x64):
    """All blocks in order in one namespace, as a reader would; tiny runs stand in for the finished ones."""
    assert len(BLOCKS) >= 4
    scope: dict = {}
    with enable_x64(False):
        for block in BLOCKS:
            code = block.replace('"runs/demo"', repr(str(untrained)))
            code = code.replace('"runs/turtle"', repr(str(untrained_rule)))
            exec(compile(code, "README.md", "exec"), scope)
    assert scope["accuracy"].shape == (200,)
    assert scope["accuracy"].mean() > 0.5
    assert scope["logits"].shape == (5, 5)
    assert scope["task"].support.x.shape == (5, 28, 28, 1)
    assert scope["logits_in_time"].shape == (15, 5)
    assert scope["matrix"].shape == (3, 3)
