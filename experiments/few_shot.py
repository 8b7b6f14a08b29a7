"""Few-shot learning: meta-train and test MAML, its relatives, ANIL, COMLN, ProtoNet and R2D2 on episodes.

The whole network adapts by gradient steps (maml and its relatives, from fomaml to leap), or a head is fitted
to the features of a network that all tasks share (anil, comln, protonet, r2d2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments import flags
from experiments.cli import launch
from experiments.errors import UsageError
from experiments.presets import comln as comln_paper
from experiments.presets import few_shot_gradient as gradient_papers
from experiments.presets import maml as maml_paper
from experiments.presets import sparse_maml_few_shot as sparse_maml_paper
from experiments.presets.few_shot import PAPER_NAMES, ROWS, USUAL
from experiments.settings import Experiment, Settings
from jmeta import registry

if TYPE_CHECKING:
    from experiments.runner import Run
    from jmeta.types import Adapter, LearnerState

ALGORITHMS = {name: entry.settings for name, entry in registry.WHOLE.items()} | {
    name: ("norm", *entry.settings) for name, entry in registry.HEADS.items()
}
for name in sparse_maml_paper.ALGORITHMS:
    ALGORITHMS[name] += sparse_maml_paper.OUTER
for name, flags_of_outer_loop in gradient_papers.OUTER.items():
    ALGORITHMS[name] += flags_of_outer_loop


INITIALIZATIONS = ("lecun_normal", "uniform", "he_normal", "glorot_uniform", "pytorch")


def pick_flags(algorithms: Mapping[str, tuple[str, ...]], **options: Any) -> dict[str, flags.Flag]:
    """Pick the flags of an entry point for these algorithms; the `options` are those of `flags.pick`."""
    own = [name for settings in algorithms.values() for name in settings if name not in flags.NETWORK]
    options["when"] = {"seed": (flags.Unless("eval_only", (True,), "the test's tasks are fixed"),)}
    options["choices"] = {"initialize": INITIALIZATIONS, **options.get("choices", {})}
    names = [*flags.DATA, *flags.EPISODES, *flags.NETWORK, "pool", "normalize_features", "initialize", *own,
             "label_smoothing", "optimizer", "learning_rate", "learning_rate_drops", "weight_decay",
             "clip_norm", "clip_value", "skip_nonfinite", *flags.OUTER, *flags.RUNNING]  # fmt: skip
    return flags.pick(*names, **options)


def row(algorithm: str, dataset: str, backbone: str | None, shot: int) -> dict[str, Any]:
    """Return the default row of an algorithm, and the network that suits a dataset."""
    backbone = backbone or {"features": "identity", "sinusoid": "mlp"}.get(dataset, "conv4")
    sparse = algorithm in sparse_maml_paper.ALGORITHMS
    own = sparse_maml_paper.row(algorithm, backbone, shot) if sparse else ROWS.get(algorithm, USUAL)
    return own | {"backbone": backbone}


def main(run: Run) -> int:
    """Train and test."""
    settings, source = run.settings, run.dataset()
    algorithm = settings.get("algorithm", run.experiment.name)
    regression = settings.dataset == "sinusoid"
    spec = run.learner(
        describe_adapter(run, algorithm, regression),
        tx=optimizer(run),
        test_loss=loss(regression),
        **outer_parts(
            algorithm,
            loss=loss(regression, settings.label_smoothing),
            metrics={"name": "squared_error" if regression else "accuracy"},
        ),
    )
    return run.fit_episodes(
        spec,
        source,
        **run.episodes(source),
        measure=("squared_error", "min") if regression else ("accuracy", "max"),
        learned=learned_numbers,
        published=published_row(algorithm, settings),
    )


def outer_parts(algorithm: str, **usual: dict[str, Any]) -> dict[str, Any]:
    """Describe the parts of a learner, in the places of the usual ones those of an algorithm's own."""
    own = registry.entry(kind_of(algorithm), algorithm).outer
    wrapped = {
        part: {"name": name} | ({part: usual[part]} if part in usual else {}) for part, name in own.items()
    }
    return usual | wrapped


def kind_of(algorithm: str) -> str:
    """Return the kind of an algorithm in the registry: a head on features, or a whole adapter."""
    return "head" if algorithm in registry.HEADS else "adapter"


def optimizer(run: Run) -> dict[str, Any]:
    """Describe the outer optimizer, and that of masks and learned rates if it is another."""
    tx, rate = run.optimizer(), run.settings.get("mask_learning_rate")
    if rate is None or "mask_learning_rate" not in ALGORITHMS.get(run.settings.get("algorithm"), ()):
        return tx
    name = run.settings.mask_optimizer or tx["name"]
    return {"name": "by_part", "tx": tx, "rule_tx": {"name": name, "learning_rate": rate}}


def published_row(algorithm: str, settings: Settings) -> dict[str, Any]:
    """Name the fields of the published row; the rows of Table 5 of COMLN are on embeddings of LEO, and those
    of Table 4 of sparse-MAML across domains."""
    preset = settings.preset or ""
    embedded, target = preset.startswith("table5"), sparse_maml_paper.target(preset, settings.dataset)
    across = {"dataset": target, "variant": "from mini_imagenet"} if target else {}
    return {
        "paper": "sparse_maml" if preset.startswith("sparse_maml_") else None,
        "dataset": "mini_imagenet" if embedded else settings.dataset,
        "method": PAPER_NAMES.get(algorithm, algorithm),
        "backbone": "leo_embeddings" if embedded else settings.backbone,
        "way": settings.way,
        "shot": settings.shot,
        "variant": "Euler" if settings.get("solver") == "euler" else None,
        **across,
    }


def describe_adapter(run: Run, algorithm: str, regression: bool) -> dict[str, Any]:
    """Describe the adapter, or the head on features, by the arguments of its factory."""
    settings, outputs = run.settings, 1 if regression else run.settings.way
    kind = kind_of(algorithm)
    arguments = registry.parameters(kind, algorithm)
    if regression and "way" in arguments:
        raise UsageError(f"--algorithm={algorithm} is a classifier; give a --dataset other than sinusoid")
    last_layer = {"name": "mlp", "widths": [], "outputs": outputs}
    initialize = {name: value for name, value in settings.take("initialize").items() if value}
    available = {
        **settings.take(*registry.entry(kind, algorithm).settings, "way", "label_smoothing"),
        "model": last_layer if kind == "head" else run.whole_network(outputs, **initialize),
        "loss": loss(regression, settings.label_smoothing),
        "test_loss": loss(regression),
        "remat": settings.get("remat") if settings.get("order") == "exact" else "none",
    }
    adapter = {"name": algorithm} | {name: available[name] for name in arguments if name in available}
    if kind == "adapter":
        return adapter
    way = None if regression else outputs
    body = run.backbone(**initialize)
    return {"name": "on_features", "body": body, "head": adapter, "way": way, "norm": settings.norm}


def loss(regression: bool, smoothing: float = 0.0) -> dict[str, Any]:
    """Describe the loss, with label smoothing in training."""
    if regression:
        return {"name": "mean_squared_error"}
    return {"name": "cross_entropy", **({"smoothing": smoothing} if smoothing else {})}


def learned_numbers(adapter: Adapter, state: LearnerState) -> dict[str, float]:
    """Read the numbers that an adapter tells of what it has learned; else the scalars of its head, of which
    those named log_* are exponentiated."""
    import numpy as np

    if adapter.learned is not None:
        return {name: float(value) for name, value in adapter.learned(state.meta).items()}
    head = state.meta.get("head", {})
    leaves = {name: leaf for name, leaf in head.items() if isinstance(leaf, (np.ndarray, np.generic))}
    scalars = {name: float(leaf) for name, leaf in leaves.items() if leaf.ndim == 0}
    return {
        name.removeprefix("log_"): float(np.exp(value)) if name.startswith("log_") else value
        for name, value in scalars.items()
    }


EXPERIMENT = Experiment(
    "few_shot",
    __doc__ or "",
    flags.pick("algorithm", choices={"algorithm": ALGORITHMS}, defaults={"algorithm": "maml"})
    | pick_flags(ALGORITHMS),
    main,
    {name: {"algorithm": "comln"} | values for name, values in comln_paper.PRESETS.items()}
    | maml_paper.PRESETS
    | gradient_papers.PRESETS
    | sparse_maml_paper.PRESETS,
    ALGORITHMS,
    row,
    lambda settings: published_row(settings.algorithm, settings),
)

if __name__ == "__main__":
    launch(EXPERIMENT)
