"""The examples learn, with fewer steps than they take by themselves."""

from importlib import import_module
from pathlib import Path

import pytest

import experiments.examples

STEPS = {"maml": 200, "own_rule": 100, "comln": 30, "own_adapter": 20}


def test_every_example_is_tested():
    pages = {path.stem for path in Path(experiments.examples.__file__).parent.glob("*.py")}
    assert pages - {"__init__"} == set(STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_an_example_learns(name, enable_x64, capsys):
    with enable_x64(False):
        before, after = import_module(f"experiments.examples.{name}").main(STEPS[name])
    if name in ("maml", "own_rule"):  # errors
        assert after < 0.8 * before
    else:  # accuracies
        assert before < after <= 1 and after > before + 0.03
    assert "untrained" in capsys.readouterr().out
