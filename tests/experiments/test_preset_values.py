"""Values of presets as the released codes have them, typed again."""

import math

import pytest

from experiments import continual, online_few_shot
from experiments.cli import parse
from experiments.runner import Run
from jmeta.outer.load import spec_of_adapter

ROTATIONS, PERMUTATIONS, MANY = "mnist_rotations", "mnist_permutations", "mnist_many_permutations"
# Of La-MAML's scripts, for rotations, permutations and many permutations.
LA_MAML = {
    "la_maml": {
        "initial_rate": (0.15, 0.15, 0.1), "rate_learning_rate": (0.3, 0.3, 0.1), "glances": (5, 5, 10),
        "clip_norm": (2, 2, 2), "capacity": (200, 200, 500), "replay": (10, 10, 10),
    },
    "la_maml_sync": {
        "initial_rate": (0.15, 0.15, 0.03), "rate_learning_rate": (0.1, 0.1, 0.1),
        "learning_rate": (0.3, 0.1, 0.03), "glances": (5, 5, 10), "clip_norm": (2, 2, 2),
        "capacity": (200, 200, 500), "replay": (10, 10, 10),
    },
    "replay_maml": {
        "inner_rate": (0.1, 0.03, 0.03), "learning_rate": (0.1, 0.1, 0.15), "glances": (5, 5, 5),
        "clip_norm": (2, 2, 2), "capacity": (200, 200, 500),
    },
}  # fmt: skip
# Of MER's and GEM's.
SINGLE = {
    "er": {"learning_rate": (0.1, 0.1, 0.1), "replay": (10, 10, 25), "capacity": (200, 200, 500)},
    "mer": {
        "learning_rate": (0.1, 0.03, 0.03), "within": (0.01, 0.03, 0.03), "across": (1, 1, 1),
        "replay_batches": (5, 10, 10), "replay": (10, 10, 5), "capacity": (200, 200, 500),
    },
    "gem": {"learning_rate": (0.01, 0.01, 0.003), "margin": (0, 0, 0.1), "slots": (10, 10, 5)},
    "sgd": {"learning_rate": (0.0003, 0.003, 0.003)},
}  # fmt: skip


@pytest.mark.parametrize(("batch", "rows"), [(10, LA_MAML), (1, SINGLE)])
def test_continual_learners(batch, rows):
    for algorithm, values in rows.items():
        for problem, dataset in enumerate((ROTATIONS, PERMUTATIONS, MANY)):
            expected = {name: by_problem[problem] for name, by_problem in values.items()} | {"batch": batch}
            for arguments in (
                [f"--preset=table5_{dataset}_{algorithm}"],
                [f"--algorithm={algorithm}", f"--dataset={dataset}"],
            ):
                settings = parse(continual.EXPERIMENT, ["", *arguments])
                assert settings.take(*expected) == expected, (algorithm, dataset)


def test_apl_sees_noise(monkeypatch, tmp_path):
    """Uniform up to 0.1, as in the released code; the encoder of others sees none."""
    monkeypatch.setattr(Run, "fit_episodes", lambda self, spec, source, **parts: spec)

    def memory(algorithm):
        settings = parse(online_few_shot.EXPERIMENT, ["", f"--algorithm={algorithm}"])
        run = Run(settings, online_few_shot.EXPERIMENT, tmp_path, {}, math.inf)
        return spec_of_adapter(online_few_shot.main(run))

    assert memory("apl")["noise"] == 0.1
    assert "noise" not in memory("opn")
