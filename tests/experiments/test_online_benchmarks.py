"""The benchmarks of online learners at their smallest."""

import json

import pytest

from experiments.benchmarks import adaptation_cost, cl_lstm_speed
from experiments.cli import parse
from experiments.errors import UsageError
from jmeta.adapters.from_memory import from_memory
from jmeta.memory.cl_lstm import cl_lstm
from jmeta.report.flops import cl_lstm_flops

TINY = "--meta_batch=2 --way=2 --presentations=2 --image_size=8 --filters=4 --hidden=4 --rounds=2".split()


def run_speed(*arguments):
    return cl_lstm_speed.main(parse(cl_lstm_speed.EXPERIMENT, ["", *TINY, *arguments]))


def test_the_compiled_step_has_the_arithmetic_that_is_counted():
    """And elementwise operations, which are few beside the products; one step, whatever a stream's length."""
    adapter = from_memory(cl_lstm(3, filters=32, hidden=16))
    compiled = adaptation_cost.compiled_flops(adapter, (16, 16, 1))
    assert compiled == pytest.approx(cl_lstm_flops((16, 16, 1), 3, filters=32, hidden=16), rel=0.05)


def test_costs_stand_beside_the_papers(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(adaptation_cost, "compiled_flops", lambda adapter, image: 0.123e9)
    flags = ["", "--slots=5", f"--output={tmp_path / 'cost.json'}"]
    assert adaptation_cost.main(parse(adaptation_cost.EXPERIMENT, flags)) == 0
    rows = json.loads((tmp_path / "cost.json").read_text())["rows"]
    assert rows["cl_lstm"]["adaptation"] == pytest.approx(rows["cl_lstm"]["paper_adaptation"], rel=0.02)
    assert rows["oml"]["adaptation_as_paper"] == pytest.approx(rows["oml"]["paper_adaptation"], rel=0.03)
    assert capsys.readouterr().out.count("0.123") == 4


@pytest.mark.slow
def test_every_model_is_compiled_with_about_the_arithmetic_that_is_counted():
    for name, row in adaptation_cost.rows(5).items():
        assert row["compiled_adaptation"] == pytest.approx(row["adaptation"], rel=0.15), name


@pytest.mark.slow
def test_a_training_step_is_timed(tmp_path, capsys):
    assert run_speed(f"--output={tmp_path / 'speed.json'}") == 0
    printed = capsys.readouterr().out
    assert "counted analytically" in printed and "as compiled" in printed
    line = json.loads((tmp_path / "speed.json").read_text())["lines"]["jmeta"]
    assert len(line["tasks_per_second"]) == 2 and min(line["tasks_per_second"]) > 0


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--torch_python=/nonexistent", "--torch_python=/nonexistent: No such file"),
     ("--torch_python=/bin/true", "--torch_python=/bin/true cannot run"),
     ("--image_size=6", "images of 6x6 leave no feature; expected at least 8x8"),
     ("--rounds=0", "--rounds=0; expected at least 1")],
)  # fmt: skip
def test_unusable_flags_are_named(flag, message, monkeypatch):
    if "image_size" not in flag:  # what is compiled before does not matter
        monkeypatch.setattr(cl_lstm_speed, "arithmetic", lambda *arguments, **sizes: "")
        monkeypatch.setattr(cl_lstm_speed, "training_line", lambda *arguments: (lambda: (1.0, 1.0), {}))
    with pytest.raises(UsageError, match=message):
        run_speed(flag)
