import numpy as np
import pytest

from jmeta.report import continual_figures
from jmeta.report.table import StoredRun


def pixels(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def test_the_accuracy_matrix_shows_its_numbers(tmp_path):
    low = continual_figures.accuracy_heatmap(np.full((1, 3, 3), 0.05), tmp_path / "low.png")
    high = continual_figures.accuracy_heatmap(np.full((1, 3, 3), 0.95), tmp_path / "high.png")
    assert (pixels(low) != pixels(high)).any(-1).mean() > 0.3


def test_the_title_of_the_accuracy_matrix_is_in_points_and_counts_the_seeds(tmp_path):
    seeds = np.array([[[0.8, 0.0], [0.6, 0.9]], [[0.8, 0.0], [0.4, 0.7]]])  # [seed, after, on]
    drawn = continual_figures.accuracy_heatmap(seeds, tmp_path / "matrix.svg").read_text()
    assert ">retained 65.0 %, backward transfer -15.0 points<" in drawn and ">mean over 2 seeds<" in drawn


@pytest.mark.parametrize("trials", [False, True])
def test_sparsity_has_a_line_for_each_group(tmp_path, trials):
    records = [
        {"tasks_seen": task + 1.0, "loss": 1.0, "sparsity/W1": 0.1 * task, "sparsity/b1": 0.2 * task}
        | ({"sparsity/W1_by_trial": [0.1 * task, 0.3], "sparsity/b1_by_trial": [0.0, 0.1]} if trials else {})
        for task in range(3)
    ]
    path = continual_figures.sparsity_curves(records, tmp_path / "sparsity.svg")
    drawn = path.read_text()
    assert ">W1<" in drawn and ">b1<" in drawn and "by_trial" not in drawn
    assert drawn.count(">deviation over 2 trials<") == trials


def test_sparsity_of_a_stream_without_tasks_is_drawn_against_its_batches(tmp_path):
    records = [{"step": 100 * step, "sparsity": 0.5, "sparsity/W1": 0.1 * step} for step in (1, 2)]
    drawn = continual_figures.sparsity_curves(records, tmp_path / "sparsity.svg").read_text()
    assert ">W1<" in drawn and ">batches seen<" in drawn


def test_accuracy_over_a_stream_is_cumulative_and_by_domain(tmp_path):
    """Right in the first half alone, which is of the first domain; a domain that never comes has no place."""
    accuracies = np.repeat([[1.0, 0.0]], 10, axis=1)
    domains = np.repeat([[0, 1]], 10, axis=1)
    path = continual_figures.accuracy_over_stream(
        accuracies, domains, ["omniglot", "fashion_mnist", "none"], tmp_path / "accuracy.svg"
    )
    drawn = path.read_text()
    assert ">50.0 % over the stream<" in drawn
    assert ">fashion mnist<" in drawn and ">none<" not in drawn


def test_no_record_is_an_empty_figure(tmp_path):
    assert continual_figures.sparsity_curves([], tmp_path / "none.png").stat().st_size > 0


def test_runs_of_several_widths_are_a_line_for_each_algorithm(tmp_path):
    def run(algorithm, hidden, retained):
        metrics = {"retained_accuracy": {"mean": retained, "std": None, "ci95": None}}
        results = {"algorithm": algorithm, "eval": {"metrics": metrics}, "learned": {"sparsity": 1 / hidden}}
        return StoredRun("", "finished", 1, results, {})

    widths = [200, 50, 50]
    names = ["sparse_la_maml, mnist_rotations"] * 2 + ["la_maml, mnist_rotations"]
    runs = [run("sparse_la_maml", 200, 0.78), run("sparse_la_maml", 50, 0.74), run("la_maml", 50, 0.73)]
    drawn = continual_figures.accuracy_against_width(runs, widths, names, tmp_path / "width.svg").read_text()
    assert (
        ">sparse_la_maml, mnist_rotations<" in drawn
        and ">la_maml, mnist_rotations<" in drawn
        and ">200<" in drawn
    )
