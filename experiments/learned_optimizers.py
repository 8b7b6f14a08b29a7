"""Learned optimizers beside MAML: TURTLE and the meta-learner LSTM, first and second order.

Huisman et al., Stateless Neural Meta-Learning using Second-Order Gradients, Machine Learning 2022. Seeds
train side by side (--num_seeds) on the same tasks, whatever --seed is. The transfer baselines (scratch,
finetune, baseline_pp) are for images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jmeta
from experiments import flags
from experiments.cli import launch
from experiments.errors import UsageError
from experiments.presets.turtle import METHODS, OTHER_DATA, PRESETS, SMALLEST_UNPADDED, row
from experiments.settings import Experiment, Settings
from jmeta import registry

if TYPE_CHECKING:
    from experiments.parts import Parts, Spec
    from experiments.runner import Run

TASK_SEED = 1337  # the authors'
WAVES = {"phase": (-math.pi, 0.0)}  # the paper's waves are A sin(x + p), p in 0..pi
_RULES = {
    "maml": "sgd", "fomaml": "sgd", "meta_lstm": "meta_lstm", "meta_lstm_enhanced": "meta_lstm",
    "turtle": "turtle", "turtle_first_order": "turtle",
}  # fmt: skip

_INNER = tuple(name for name in registry.entry("adapter", "gradient").settings if name != "remat")
_GRADIENT = (*_INNER, "meta_batch", "rotations", "augment")
_FIRST_ORDER = tuple(name for name in _GRADIENT if name != "order")
_LSTM = registry.entry("rule", "meta_lstm").settings
_TURTLE = (*registry.entry("rule", "turtle").settings, "inner_clip")
_PRETRAINED = ("finetune", "baseline_pp")
ALGORITHMS = {
    "maml": ("inner_lr", "inner_clip", *_GRADIENT),
    "fomaml": ("inner_lr", "inner_clip", *_FIRST_ORDER),
    "meta_lstm": (*_LSTM, *_GRADIENT),
    "meta_lstm_enhanced": (*_LSTM, *_GRADIENT),
    "turtle": (*_TURTLE, *_GRADIENT),
    "turtle_first_order": (*_TURTLE, *_FIRST_ORDER),
    "scratch": registry.entry("adapter", "scratch").settings,
    **{name: (*registry.entry("adapter", name).settings, "pretrain_batch") for name in _PRETRAINED},
}


def main(run: Run) -> int:
    """Train and test."""
    settings, source = run.settings, run.dataset()
    algorithm, regression = settings.algorithm, settings.dataset == "sinusoid"
    check_padding(settings.backbone, settings.padded, source.info.shape)
    trained_on, train = settings.dataset, source.splits.get("train")
    classes = len(train.counts) if train else None
    if settings.eval_only:
        theirs, adapter = run.origin()
        trained_on, classes = theirs["dataset"], adapter.get("classes")
    elif algorithm == "scratch" and (settings.preset or "").startswith("table3_4"):
        trained_on = OTHER_DATA.get(settings.dataset, trained_on)  # a row of that table, without training
    samplers = run.episodes(source, **(WAVES if regression else {}))
    if algorithm in _PRETRAINED:
        if classes is None and settings.eval_only:
            raise UsageError(f"--init_from={settings.init_from}: not a run of finetune or baseline_pp")
        if classes is None:
            raise UsageError(f"--dataset={settings.dataset} has no training images to pre-train on")
        if not settings.eval_only:
            samplers["train"] = jmeta.supervised_batches(train, size=settings.pretrain_batch)
    return run.fit_episodes(
        compose_learner(run, classes),
        source,
        **samplers,
        measure=("squared_error", "min") if regression else ("accuracy", "max"),
        published=published_row(settings, trained_on),
        task_seed=TASK_SEED,
        facts=WAVES if regression else {},
    )


def published_row(settings: Settings, trained_on: str) -> dict[str, Any]:
    """Name the row of Table 3.1 or, of a learner that was trained on another dataset, 3.4."""
    return {
        "paper": "turtle",
        "dataset": settings.dataset,
        "method": METHODS[settings.algorithm],
        "backbone": settings.backbone,
        "way": settings.way,
        "shot": settings.shot,
        "variant": None if trained_on == settings.dataset else f"from {trained_on}",
    }


def published_row_of_preset(settings: Settings) -> dict[str, Any]:
    """Name the row of settings that have not been run: those of Table 3.4 were trained on the other data."""
    across = (settings.preset or "").startswith("table3_4")
    return published_row(settings, OTHER_DATA[settings.dataset] if across else settings.dataset)


def compose_learner(parts: Parts, classes: int | None) -> Spec:
    """Describe the learner of an algorithm; a pre-trained network has an output for each of `classes`.

    For maml and turtle, inner gradients are clipped, and each task's outer gradient of the initial weights.
    """
    settings, algorithm = parts.settings, parts.settings.algorithm
    regression, clip = settings.dataset == "sinusoid", settings.inner_clip
    loss = {"name": "mean_squared_error" if regression else "cross_entropy"}
    initialize = {} if settings.backbone == "resnet12" else {"initialize": "uniform"}
    if algorithm in _PRETRAINED:
        adapter = {"body": parts.backbone(**initialize), "way": settings.way, "classes": classes}
    else:
        adapter = {"model": parts.whole_network(1 if regression else settings.way, **initialize)}
    adapter |= {"name": algorithm, "loss": loss}
    if algorithm in _RULES:
        adapter |= {"name": "gradient", "remat": "none" if regression else "step"}
        adapter |= settings.take(*_INNER)
        rule = registry.entry("rule", _RULES[algorithm]).settings
        keywords = {"rate": settings.inner_lr} if algorithm in ("maml", "fomaml") else settings.take(*rule)
        adapter["rule"] = describe_rule(_RULES[algorithm], clip, **keywords)
    else:
        adapter |= settings.take(*registry.entry("adapter", algorithm).settings)
    clipping = {"name": "clip_task_gradients", "limit": clip, "within": "params"}
    metrics = {"name": "squared_error" if regression else "accuracy"}
    return parts.learner(adapter, loss, metrics, reduce="sum", task_grad=clipping if clip else None)


def describe_rule(name: str, clip: float | None, **keywords: Any) -> Spec:
    """Describe an inner rule by its keywords, on gradients clipped to +-`clip` if that is set."""
    if name == "turtle":
        keywords["inputs"] = keywords["inputs"].split(",")
    rule = {"name": name, **keywords}
    return {"name": "clip_gradients", "rule": rule, "limit": clip} if clip else rule


def check_padding(backbone: str, padded: bool, shape: Sequence[int]) -> None:
    """Raise UsageError for images, or other examples, of a shape that conv4 needs padding for."""
    if backbone == "conv4" and not padded and min(shape[:2]) < SMALLEST_UNPADDED:
        least, size = f"{SMALLEST_UNPADDED}x{SMALLEST_UNPADDED}", "x".join(map(str, shape[:2]))
        raise UsageError(f"--nopadded needs images of {least} or more, these are {size}")


EXPERIMENT = Experiment(
    "learned_optimizers",
    __doc__ or "",
    flags.pick(
        "algorithm", *flags.DATA, *flags.EPISODES, *flags.NETWORK, "padded", *_TURTLE[:-1],
        "gradient_divisor", "inner_clip", "inner_lr", "inner_steps", "test_inner_steps", "order",
        "adapt_batch", "pretrain_batch", "learning_rate", "learning_rate_drops", "clip_norm",
        "skip_nonfinite", *flags.OUTER, *flags.RUNNING,
        choices={
            "algorithm": ALGORITHMS,
            "dataset": flags.without("dataset", "features"),
            "backbone": ("conv4", "resnet12", "mlp"),
            "norm": flags.without("norm", "per_step"),
        },
        helps={
            "algorithm": "the meta-learner or transfer baseline",
            "query": "query examples [16 of a class of images, 15 of a wave]",
            "backbone": "the network, by default conv4 for images and mlp for sine waves",
            "filters": "channels of conv4, or width of mlp [64, 40]",
            "learn_rates": "learn a rate for every parameter, otherwise 1",
            "inner_lr": "rate of maml, or of the baselines' Adam",
            "inner_steps": "inner gradient steps [the algorithm's own for the data and --shot]",
            "meta_batch": "tasks of an outer update [the algorithm's own for the data and --shot]",
            "test_inner_steps": "inner gradient steps at evaluation [as in training; maml and fomaml on "
            "images: 10]",
            "order": "how the inner loop is differentiated [exact; of meta_lstm first]",
            "clip_norm": "largest global norm of an outer gradient [no limit; 0.25 for the LSTM]",
            "init_from": "start from the learned parameters of this workdir; a preset of Table 3.4 names the "
            "row of Table 3.1 that it tests, whose workdir experiments.reproduce puts here; give it if you "
            "run such a preset alone",
        },
        defaults={
            "algorithm": "turtle", "dataset": "sinusoid", "shot": 5, "query": None, "filters": None,
            "inner_lr": None, "inner_steps": None, "order": None, "learning_rate": 0.001, "meta_batch": None,
        },
    ),
    main,
    PRESETS,
    ALGORITHMS,
    row,
    published_row_of_preset,
)  # fmt: skip

if __name__ == "__main__":
    launch(EXPERIMENT)
