"""Few-shot learning: meta-train and test MAML, first-order MAML, ANIL, COMLN, ProtoNet and R2D2 on episodes.

The whole network adapts by gradient steps (maml, fomaml), or a head is fitted to the features of a network
that all tasks share (anil, comln, protonet, r2d2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments import flags
from experiments.cli import launch
from experiments.errors import UsageError
from experiments.presets import comln as comln_paper
from experiments.presets import maml as maml_paper
from experiments.presets.few_shot import PAPER_NAMES, ROWS, USUAL
from experiments.settings import Experiment, Settings
from jmeta import registry

if TYPE_CHECKING:
    from experiments.runner import Run
    from jmeta.types import LearnerState

ALGORITHMS = {name: entry.settings for name, entry in registry.WHOLE.items()} | {
    name: ("norm", *entry.settings) for name, entry in registry.HEADS.items()
}


def pick_flags(algorithms: Mapping[str, tuple[str, ...]], **options: Any) -> dict[str, flags.Flag]:
    """Pick the flags of an entry point for these algorithms; the `options` are those of `flags.pick`."""
    own = [name for settings in algorithms.values() for name in settings if name not in flags.NETWORK]
    options["when"] = {"seed": (flags.Unless("eval_only", (True,), "the test's tasks are fixed"),)}
    names = [*flags.DATA, *flags.EPISODES, *flags.NETWORK, "pool", "normalize_features", *own,
             "label_smoothing", "optimizer", "learning_rate", "learning_rate_drops", "weight_decay", "clip_norm",
             "clip_value", "skip_nonfinite", *flags.OUTER, *flags.RUNNING]  # fmt: skip
    return flags.pick(*names, **options)


def row(algorithm: str, dataset: str, backbone: str | None) -> dict[str, Any]:
    """Return the default row of an algorithm, and the network that suits a dataset."""
    suited = {"features": "identity", "sinusoid": "mlp"}.get(dataset, "conv4")
    return ROWS.get(algorithm, USUAL) | {"backbone": backbone or suited}


def main(run: Run) -> int:
    """Train and test."""
    settings, source = run.settings, run.dataset()
    algorithm = settings.get("algorithm", run.experiment.name)
    regression = settings.dataset == "sinusoid"
    spec = run.learner(
        describe_adapter(run, algorithm, regression),
        loss(regression, settings.label_smoothing),
        {"name": "squared_error" if regression else "accuracy"},
        test_loss=loss(regression),
    )
    return run.fit_episodes(
        spec,
        source,
        **run.episodes(source),
        measure=("squared_error", "min") if regression else ("accuracy", "max"),
        learned=learned_numbers,
        published=published_row(algorithm, settings),
    )


def published_row(algorithm: str, settings: Settings) -> dict[str, Any]:
    """Name the fields of the published row; the rows of Table 5 of COMLN are on embeddings of LEO."""
    embedded = (settings.preset or "").startswith("table5")
    return {
        "dataset": "mini_imagenet" if embedded else settings.dataset,
        "method": PAPER_NAMES.get(algorithm, algorithm),
        "backbone": "leo_embeddings" if embedded else settings.backbone,
        "way": settings.way,
        "shot": settings.shot,
        "variant": "Euler" if settings.get("solver") == "euler" else None,
    }


def describe_adapter(run: Run, algorithm: str, regression: bool) -> dict[str, Any]:
    """Describe the adapter, or the head on features, by the arguments of its factory."""
    settings, outputs = run.settings, 1 if regression else run.settings.way
    kind = "head" if algorithm in registry.HEADS else "adapter"
    arguments = registry.parameters(kind, algorithm)
    if regression and "way" in arguments:
        raise UsageError(f"--algorithm={algorithm} is a classifier; give a --dataset other than sinusoid")
    last_layer = {"name": "mlp", "widths": [], "outputs": outputs}
    available = {
        **settings.take(*registry.entry(kind, algorithm).settings, "way", "label_smoothing"),
        "model": last_layer if kind == "head" else run.whole_network(outputs),
        "loss": loss(regression, settings.label_smoothing),
        "test_loss": loss(regression),
        "remat": settings.get("remat") if settings.get("order") == "exact" else "none",
    }
    adapter = {"name": algorithm} | {name: available[name] for name in arguments if name in available}
    if kind == "adapter":
        return adapter
    way = None if regression else outputs
    return {"name": "on_features", "body": run.backbone(), "head": adapter, "way": way, "norm": settings.norm}


def loss(regression: bool, smoothing: float = 0.0) -> dict[str, Any]:
    """Describe the loss, with label smoothing in training."""
    if regression:
        return {"name": "mean_squared_error"}
    return {"name": "cross_entropy", **({"smoothing": smoothing} if smoothing else {})}


def learned_numbers(state: LearnerState) -> dict[str, float]:
    """Read the scalars that a head learned; exponentiate those named log_*."""
    import numpy as np

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
    | maml_paper.PRESETS,
    ALGORITHMS,
    row,
)

if __name__ == "__main__":
    launch(EXPERIMENT)
