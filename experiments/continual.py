"""Continual learning on MNIST rotations and permutations: La-MAML, sparse-La-MAML and their baselines.

von Oswald et al., Learning where to learn, NeurIPS 2021 (section 4.1); Gupta et al., La-MAML, NeurIPS 2020.
The stream is seen in one pass (or --passes), then every task's whole test set is classified with the
parameters after each task. Accuracies are in percent. Seeds, and the points of a --grid, run side by side.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from experiments.common import Experiment, Flag, UsageError, check_numbers, launch, shared
from experiments.grid import parse_grid

ROTATIONS, PERMUTATIONS, MANY = "mnist_rotations", "mnist_permutations", "mnist_many_permutations"
PROBLEMS = {
    ROTATIONS: {"tasks": 20, "samples": 1000, "matrix": "whole"},
    PERMUTATIONS: {"tasks": 20, "samples": 1000, "matrix": "whole"},
    MANY: {"tasks": 100, "samples": 200, "matrix": "ends"},
}
ALGORITHMS = ("sgd", "er", "gem", "agem", "mer", "la_maml", "la_maml_sync", "replay_maml", "sparse_la_maml")
PAPER_NAMES = {
    "sgd": "Baseline", "gem": "GEM", "mer": "MER", "la_maml": "La-MAML", "sparse_la_maml": "sparse-La-MAML",
}  # fmt: skip

_META = ("glances", "capacity", "replay", "clip_norm", "meta_loss")
# What each algorithm's factory takes, beside the tasks' number.
USES = {
    "sgd": ("learning_rate",),
    "er": ("learning_rate", "capacity", "replay"),
    "gem": ("learning_rate", "margin", "slots", "clip_norm"),
    "agem": ("learning_rate", "slots", "replay"),
    "mer": ("learning_rate", "within", "across", "replay_batches", "capacity", "replay"),
    "la_maml": ("initial_rate", "rate_learning_rate", *_META),
    "la_maml_sync": ("initial_rate", "rate_learning_rate", "learning_rate", *_META),
    "replay_maml": ("inner_rate", "learning_rate", *_META),
    "sparse_la_maml": ("rate", "mask_learning_rate", "initial_score", *_META),
}  # fmt: skip
TUNABLE = ("learning_rate", "initial_rate", "rate_learning_rate", "inner_rate", "rate", "mask_learning_rate",
           "initial_score", "margin", "within", "across")  # fmt: skip
_NOT_NEGATIVE = ("rate_learning_rate", "mask_learning_rate", "margin")
_POSITIVE = tuple(name for name in TUNABLE if name not in (*_NOT_NEGATIVE, "initial_score"))
_ARGUMENTS = {"clip_norm": "clip", "replay_batches": "batches"}
MANY_SLOTS = {"capacity": 500, "slots": 5}

# The published settings: rotations, permutations, many permutations where three are given. Those of
# sparse-La-MAML are not published and are ours.
_BY_PROBLEM: dict[str, dict[str, Any]] = {
    "sgd": {"batch": 1, "initialise": "glorot_uniform", "learning_rate": (0.0003, 0.003, 0.003)},
    "er": {"batch": 1, "initialise": "glorot_uniform", "learning_rate": 0.1, "replay": 10},
    "gem": {"batch": 1, "initialise": "glorot_uniform", "learning_rate": (0.01, 0.01, 0.003),
            "margin": (0.0, 0.0, 0.1)},
    "agem": {"batch": 1, "initialise": "glorot_uniform", "learning_rate": 0.01, "replay": 64},
    "mer": {"batch": 1, "initialise": "glorot_uniform", "learning_rate": (0.1, 0.03, 0.03),
            "within": (0.01, 0.03, 0.03), "across": 1.0, "replay_batches": (5, 10, 10),
            "replay": (10, 10, 5)},
    "la_maml": {"initial_rate": (0.15, 0.15, 0.1), "rate_learning_rate": (0.3, 0.3, 0.1),
                "glances": (5, 5, 10)},
    "la_maml_sync": {"initial_rate": (0.15, 0.15, 0.03), "rate_learning_rate": 0.1,
                     "learning_rate": (0.3, 0.1, 0.03), "glances": (5, 5, 10)},
    "replay_maml": {"inner_rate": (0.1, 0.03, 0.03), "learning_rate": (0.1, 0.1, 0.15), "glances": 5},
    "sparse_la_maml": {"rate": (0.1, 0.1, 0.05), "mask_learning_rate": (0.1, 0.3, 0.3),
                       "initial_score": 0.05, "glances": (5, 5, 10)},
}  # fmt: skip
_COMMON = {"batch": 10, "initialise": "he_normal", "capacity": 200, "slots": 10, "replay": 10,
           "meta_loss": "mean"}  # fmt: skip


def own_values(algorithm: str, dataset: str) -> dict[str, Any]:
    """The published values of an algorithm on a problem, for the flags that it uses."""
    column = (ROTATIONS, PERMUTATIONS, MANY).index(dataset)
    values = _COMMON | (MANY_SLOTS if dataset == MANY else {})
    values |= {
        name: value[column] if isinstance(value, tuple) else value
        for name, value in _BY_PROBLEM[algorithm].items()
    }
    if "glances" in USES[algorithm]:
        values["clip_norm"] = 2.0
    used = ("batch", "initialise", *USES[algorithm])
    return {name: value for name, value in values.items() if name in used}


def _presets() -> dict[str, dict[str, Any]]:
    """Every row of Table 5, the other algorithms on the same problems, and the runs of Figures 3 and 4."""
    presets: dict[str, dict[str, Any]] = {}
    for dataset in PROBLEMS:
        for algorithm in ALGORITHMS:
            row = {"algorithm": algorithm, "dataset": dataset, "num_seeds": 5}
            presets[f"table5_{dataset}_{algorithm}"] = row | own_values(algorithm, dataset)
    for algorithm in ("la_maml", "sparse_la_maml"):
        row = {"algorithm": algorithm, "dataset": ROTATIONS, "num_seeds": 3}
        row |= own_values(algorithm, ROTATIONS)
        presets[f"figure3_{algorithm}"] = row
        ten = {"passes": 10, "glances": 1}
        presets[f"figure4_{algorithm}"] = row | ten
    for hidden in (50, 100, 200, 400, 800):
        presets[f"figure3_width_{hidden}"] = presets["figure3_sparse_la_maml"] | {"hidden": hidden}
    return presets


def _own(kind: str, help: str, choices: tuple[str, ...] = ()) -> Flag:
    """A flag whose default is the published value of the algorithm on the problem."""
    return Flag(kind, None, f"{help} [the algorithm's own, see the presets]", choices)


FLAGS = (
    {
        "algorithm": Flag("enum", "la_maml", "what learns", ALGORITHMS),
        "dataset": Flag("enum", ROTATIONS, "the stream", tuple(PROBLEMS)),
        "images": Flag("enum", "mnist", "whose images it shows", ("mnist", "fashion_mnist")),
    }
    | shared("data_dir", "download")
    | {
        "tasks": Flag("integer", None, "tasks of the stream [20; 100 of many permutations]"),
        "samples": Flag("integer", None, "training images of a task [1000; 200 of many permutations]"),
        "passes": Flag("integer", 1, "times that a task's images are shown before the next task"),
        "batch": _own("integer", "images of a step"),
        "transform_seed": Flag(
            "integer", None, "angles or permutations, the same for all seeds [the seed's]"
        ),
        "hidden": Flag("integer", 100, "units of each of the two hidden layers"),
        "initialise": _own("enum", "initial weights", ("he_normal", "glorot_uniform")),
        "learning_rate": _own("float", "of the weights"),
        "initial_rate": _own("float", "la_maml, la_maml_sync: the learned rates at first"),
        "rate_learning_rate": _own("float", "la_maml, la_maml_sync: of the learned rates"),
        "inner_rate": _own("float", "replay_maml: of the steps that look ahead"),
        "rate": _own("float", "sparse_la_maml: of all steps"),
        "mask_learning_rate": _own("float", "sparse_la_maml: of the masks' scores"),
        "initial_score": _own("float", "sparse_la_maml: the masks' scores at first"),
        "glances": _own("integer", "meta-updates on a batch"),
        "meta_loss": _own("enum", "which steps that look ahead are judged", ("mean", "last")),
        "clip_norm": _own("float", "largest global norm of a gradient"),
        "capacity": _own("integer", "slots of the replay reservoir"),
        "replay": _own("integer", "replayed examples of a step"),
        "slots": _own("integer", "gem and agem: examples kept of each task"),
        "margin": _own("float", "gem: least multiplier of a past task's gradient"),
        "within": _own("float", "mer: how far a replay batch moves the weights (beta)"),
        "across": _own("float", "mer: how far an example moves the weights (gamma)"),
        "replay_batches": _own("integer", "mer: replay batches of an example"),
        "grid": Flag(
            "string",
            "",
            "points to run side by side, as rate=0.03:0.1,mask_learning_rate=0.1:0.3:1; the point with the "
            "best retained accuracy is reported first, and all of them under grid",
        ),
    }
    | {
        "matrix": Flag(
            "enum",
            None,
            "how much of the accuracy matrix: the whole, or its diagonal and last row, which the metrics "
            "need [whole; ends of many permutations, a fiftieth of the time]",
            ("whole", "ends"),
        )
    }
    | shared("seed", "num_seeds", "checkpoint_every", "max_minutes", "workdir", "preset")
)
FLAGS["num_seeds"] = FLAGS["num_seeds"]._replace(help="seeds run side by side, --seed and those after it")
FLAGS["seed"] = FLAGS["seed"]._replace(help="seed of weights, samples, orders and replay")
FLAGS["checkpoint_every"] = FLAGS["checkpoint_every"]._replace(
    default=500, help="batches between checkpoints, up to the end of a task"
)


def stray(settings: SimpleNamespace) -> dict[str, str]:
    """Flags that the chosen algorithm does not use."""
    everything = set().union(*USES.values())
    return dict.fromkeys(everything - set(USES[settings.algorithm]), f"{settings.algorithm} has none")


def points_of(settings: SimpleNamespace) -> list[dict[str, float]]:
    """The points of `--grid`."""
    return parse_grid(settings.grid, [name for name in TUNABLE if name in USES[settings.algorithm]])


def settle(settings: SimpleNamespace) -> SimpleNamespace:
    """The settings with the published values where no flag gave any. Raises UsageError for numbers that
    cannot be."""
    own = PROBLEMS[settings.dataset] | own_values(settings.algorithm, settings.dataset)
    given = {name: value for name, value in vars(settings).items() if value is not None}
    settled = SimpleNamespace(**vars(settings) | own | given)
    least = dict.fromkeys(("samples", "passes", "batch", "hidden", "glances", "capacity", "replay", "slots",
                           "replay_batches", "tasks"), 1)  # fmt: skip
    for name, smallest in least.items():
        value = getattr(settled, name, None)
        if value is not None and value < smallest:
            raise UsageError(f"--{name}={value}; expected at least {smallest}")
    if settled.samples % settled.batch:
        raise UsageError(
            f"--batch={settled.batch} does not divide --samples={settled.samples}; give a --batch that does"
        )
    if settled.transform_seed is not None and settled.transform_seed < 0:
        raise UsageError(f"--transform_seed={settled.transform_seed}; expected at least 0")
    for point in points_of(settled):
        check_numbers(vars(settled) | point, positive=_POSITIVE, not_negative=_NOT_NEGATIVE)
    return settled


def learner_settings(settings: SimpleNamespace) -> dict[str, Any]:
    """What the algorithm's factory takes, from the flags."""
    chosen = {_ARGUMENTS.get(name, name): getattr(settings, name) for name in USES[settings.algorithm]}
    return chosen | ({"tasks": settings.tasks} if settings.algorithm in ("gem", "agem") else {})


def published_row(settings: SimpleNamespace) -> dict[str, Any] | None:
    """The row of Table 5 for these settings: its problem in one pass, on MNIST."""
    from jmeta.report.published import row_for

    plain = settings.images == "mnist" and settings.passes == 1 and settings.hidden == 100
    plain = plain and all(
        getattr(settings, name) == PROBLEMS[settings.dataset][name] for name in ("tasks", "samples")
    )
    name = PAPER_NAMES.get(settings.algorithm)
    return row_for(settings.dataset, name, "mlp") if plain and name else None


def run(settings: SimpleNamespace) -> int:
    """Learn the stream and test on all of it."""
    from experiments import continual_run

    return continual_run.run(settle(settings))


EXPERIMENT = Experiment("continual", __doc__ or "", FLAGS, _presets(), run, stray)

if __name__ == "__main__":
    launch(EXPERIMENT)
