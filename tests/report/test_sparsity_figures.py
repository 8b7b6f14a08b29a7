"""Figures 1 and 2 of sparse-MAML, by the numbers that are drawn."""

import contextlib
import json

import numpy as np
import pytest

from experiments.benchmarks import sparse_maml_figures
from experiments.errors import UsageError
from experiments.settings import Settings
from jmeta.report import sparsity_figures


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that are drawn, as they are before they are written."""
    opened, open_figure = [], sparsity_figures.open_figure

    @contextlib.contextmanager
    def keep(path, **size):
        with open_figure(path, **size) as figure:
            yield figure
            opened.append(figure)

    monkeypatch.setattr(sparsity_figures, "open_figure", keep)
    return opened


def curves(panel):
    return {line.get_label(): line.get_xydata().tolist() for line in panel.lines}


def write_run(folder, preset, *, accuracy, seeds, sparsity, lines=()):
    (folder / preset).mkdir(parents=True)
    metrics = {"accuracy": {"mean": accuracy, "ci95": 0.01}}
    metrics |= {} if sparsity is None else {"sparsity": {"mean": sparsity, "ci95": 0.0}}
    row = {"eval": {"metrics": metrics, "seeds": seeds and {"accuracy": seeds}}}
    (folder / preset / "results.json").write_text(json.dumps(row))
    (folder / preset / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_both_figures_from_rows(tmp_path, drawn, capsys):
    lines = [
        {"step": 0, "split": "train", "learned/sparsity": 0.5, "learned/sparsity/conv_0/kernel": 0.4,
         "learned/sparsity/head/kernel": 0.45},
        {"step": 9, "split": "train", "sparsity": 0.7, "sparsity/conv_0/kernel": 0.9,
         "sparsity/head/kernel": 0.3, "sparsity/norm_0/scale": 0.1},
        {"step": 9, "split": "validation", "sparsity": 0.6},
    ]  # fmt: skip
    start = "sparse_maml_figure"
    write_run(tmp_path, f"{start}1_50percent", accuracy=0.6, seeds=[0.5, 0.7], sparsity=0.7, lines=lines)
    write_run(tmp_path, f"{start}1_10percent", accuracy=0.5, seeds=None, sparsity=0.2, lines=lines[:1])
    write_run(tmp_path, f"{start}2_sparse_maml_25steps", accuracy=0.66, seeds=None, sparsity=0.8)
    write_run(tmp_path, f"{start}2_sparse_maml_5steps", accuracy=0.61, seeds=None, sparsity=0.6)
    write_run(tmp_path, f"{start}2_maml_5steps", accuracy=0.6, seeds=None, sparsity=None)
    write_run(tmp_path, f"{start}2_maml_rate0.25", accuracy=0.55, seeds=None, sparsity=None)
    assert sparse_maml_figures.main(Settings({"output": str(tmp_path)})) == 0
    paths = [line.removeprefix("figure in ") for line in capsys.readouterr().out.splitlines()]
    assert paths == [str(tmp_path / f"sparse_maml_figure{number}.png") for number in (1, 2)]
    (left, center, right), (steps, rates, shares, _) = (figure.axes for figure in drawn)
    assert curves(left) == {"10 % at first": [[0, 50]], "50 % at first": [[0, 50], [9, 70]]}
    assert curves(center) == {
        "conv_0 kernel": [[0, 40], [9, 90]], "head kernel": [[0, 45], [9, 30]],
    }  # fmt: skip
    points = next(iter(right.containers))[0].get_xydata()
    np.testing.assert_allclose(points, [[10, 50], [50, 60]])
    bars = [container[2][0].get_segments() for container in right.containers]
    np.testing.assert_allclose([np.diff(bar[:, 1]) for bar in bars[0]], [[2.0], [2 * 100 * 0.02**0.5]])
    accuracy = {container.get_label(): container[0].get_xydata().tolist() for container in steps.containers}
    assert accuracy == {"MAML": [[5, 60]], "sparse-MAML": [[5, 61], [25, 66]]}
    assert curves(shares) == {"sparse-MAML: sparsity": [[5, 60], [25, 80]]}
    assert steps.get_xscale() == "linear" and rates.get_xscale() == "log"


def test_a_folder_without_rows_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no finished row of sparse_maml/figure1"):
        sparse_maml_figures.main(Settings({"output": str(tmp_path)}))
