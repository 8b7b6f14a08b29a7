"""Learned optimisers beside MAML: TURTLE and the meta-learner LSTM, first and second order.

Huisman et al., Stateless Neural Meta-Learning using Second-Order Gradients, Machine Learning 2022. Seeds
train side by side (--num_seeds) on the same tasks, whatever --seed is. The transfer baselines (scratch,
finetune, baseline_pp) are for images.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from experiments.common import Experiment, Flag, UsageError, launch, parse_drops, shared, without
from experiments.learned_optimizers_presets import (
    META_LEARNERS,
    OTHER_DATA,
    PAPER_NAMES,
    TRANSFER,
    own_settings,
    presets,
)

if TYPE_CHECKING:
    from experiments.run import Composition
    from jmeta.data.source import Dataset

TASK_SEED = 1337  # the authors'
_TURTLE_INPUTS = "gradient,gradient_history"
_SMALLEST_UNPADDED = 46  # height and width of which conv4 without padding leaves something

FLAGS = (
    {"algorithm": Flag("enum", "turtle", "what is meta-trained", META_LEARNERS + TRANSFER)}
    | shared("dataset", "data_dir", "split", "download", "image_size", "rotations", "augment",
             dataset="sinusoid")
    | shared("way", "shot", "query", "backbone", "filters", "drop_block", "global_pool", "norm", shot=5,
             query=None, filters=None)
    | {
        "padded": Flag(
            "boolean",
            None,
            "convolve conv4 with zeros outside [not on the paper's data, mini_imagenet and cub, unless they "
            f"are smaller than {_SMALLEST_UNPADDED}x{_SMALLEST_UNPADDED}]",
        ),
        "hidden_layers": Flag("integer", 5, "hidden layers of TURTLE's network"),
        "hidden_units": Flag("integer", 20, "units of TURTLE's layers, or of the LSTM"),
        "inputs": Flag(
            "string",
            None,
            "what the learned rule sees, separated by commas; turtle: gradient, loss, step, "
            f"gradient_history, update_history [{_TURTLE_INPUTS}; one step: gradient]; the LSTM: "
            "loss_and_gradient [meta_lstm], gradient, raw_gradient [meta_lstm_enhanced]",
        ),
        "decay": Flag("float", 0.9, "of TURTLE's moving histories"),
        "preprocess": Flag("boolean", False, "show TURTLE logarithm and sign instead of raw numbers"),
        "learn_rates": Flag("boolean", True, "learn a rate for every parameter (turtle), else 1"),
        "gradient_divisor": Flag(
            "float", None, "the LSTM's gradients are divided by it [the support set's size, as in the code]"
        ),
        "inner_clip": Flag(
            "float", None, "maml and turtle: largest inner gradient by value, and outer one of the initial "
            "weights [10 with more than one inner step]"
        ),
    }
    | shared("inner_lr", "inner_steps", "test_inner_steps", "order", inner_lr=None, inner_steps=None)
    | {
        "adapt_batch": Flag("integer", 4, "support examples of a step of scratch, finetune and baseline_pp"),
        "pretrain_batch": Flag("integer", 16, "images of a pre-training step of finetune and baseline_pp"),
    }
    | shared("learning_rate", "learning_rate_drops", "clip_norm", "skip_nonfinite", learning_rate=0.001)
    | shared("meta_batch", "chunk", "steps", "eval_every", "validation_tasks", "eval_tasks", meta_batch=None)
    | shared("checkpoint_every", "log_every", "max_minutes", "seed", "num_seeds", "init_from", "eval_only")
    | shared("workdir", "preset", "distributed", "precision")
)  # fmt: skip
FLAGS["order"] = FLAGS["order"]._replace(
    default=None,
    help="how the inner loop is differentiated [exact; first for meta_lstm]",
)
FLAGS["inner_lr"] = FLAGS["inner_lr"]._replace(help="rate of maml [0.01] or of the baselines' Adam [0.001]")
FLAGS["filters"] = FLAGS["filters"]._replace(help="channels of conv4 [64]; width of mlp [40]")
for _name in ("inner_steps", "meta_batch"):
    FLAGS[_name] = FLAGS[_name]._replace(
        help=f"{FLAGS[_name].help} [the algorithm's own for the data and --shot, see the presets]"
    )
FLAGS["test_inner_steps"] = FLAGS["test_inner_steps"]._replace(
    help="inner gradient steps at evaluation [as in training; maml and fomaml on images: 10]"
)
FLAGS["init_from"] = FLAGS["init_from"]._replace(
    help=f"{FLAGS['init_from'].help}; a preset of Table 3.4 names the row of Table 3.1 that it tests, whose "
    "workdir experiments.benchmarks.rows puts here; give it where you run such a preset alone"
)
FLAGS["query"] = FLAGS["query"]._replace(help="query examples [16 of a class of images, 15 of a wave]")
FLAGS["dataset"] = without(FLAGS["dataset"], "features")
FLAGS["norm"] = FLAGS["norm"]._replace(choices=("batch", "support", "running"))
FLAGS["backbone"] = FLAGS["backbone"]._replace(choices=("conv4", "resnet12", "mlp"))


def stray(settings: SimpleNamespace) -> dict[str, str]:
    """Flags that mean nothing beside the others, and why."""
    from experiments.tasks import backbone
    from experiments.tasks import stray as stray_tasks

    algorithm = settings.algorithm
    reasons = stray_tasks(settings)
    turtle, lstm = algorithm.startswith("turtle"), algorithm.startswith("meta_lstm")
    for names, where, why in (
        ("hidden_layers decay preprocess learn_rates", not turtle, "only turtle has it"),
        ("hidden_units inputs", not turtle and not lstm, f"{algorithm} has no learned rule"),
        ("gradient_divisor", not lstm, "only the LSTM divides its gradients"),
        ("inner_clip", lstm or algorithm in TRANSFER, "only maml and turtle clamp gradients"),
        ("inner_lr", algorithm not in ("maml", "fomaml", *TRANSFER), f"{algorithm} learns its rate"),
        ("order", algorithm in ("fomaml", "turtle_first_order", *TRANSFER), f"{algorithm} has one order"),
        ("test_inner_steps norm", algorithm in TRANSFER, f"{algorithm} has no such choice"),
        ("adapt_batch", algorithm not in TRANSFER, "meta-learners adapt on the whole support set"),
        ("pretrain_batch", algorithm not in TRANSFER[1:], f"{algorithm} is not pre-trained"),
        ("meta_batch", algorithm in TRANSFER, "one batch of --pretrain_batch images an update"),
        ("meta_batch steps eval_every validation_tasks learning_rate learning_rate_drops clip_norm "
         "skip_nonfinite rotations augment init_from eval_only", algorithm == "scratch",
         "scratch trains nothing before its test"),
        ("rotations augment", algorithm in TRANSFER, "pre-training takes the images as they are"),
        ("padded", backbone(settings) != "conv4", "only conv4 may leave padding out"),
    ):  # fmt: skip
        if where:
            reasons |= dict.fromkeys(names.split(), why)
    return reasons


def check_preset(settings: SimpleNamespace) -> None:
    """Raises UsageError where the preset has a value with a meaning for its own algorithm alone."""
    preset = EXPERIMENT.presets.get(settings.preset or "", {})
    own = preset.get("algorithm", settings.algorithm)
    meant = stray(SimpleNamespace(**vars(settings) | {"algorithm": own}))
    for name, why in stray(settings).items():
        if name in preset and name not in meant:
            raise UsageError(
                f"--algorithm={settings.algorithm} with --preset={settings.preset}, which has "
                f"--{name}={preset[name]}: {why}; take a preset of {settings.algorithm}, or none"
            )


def settle(settings: SimpleNamespace) -> SimpleNamespace:
    """The settings with the algorithm's own values for the data and the shot where no flag gave any.

    Raises UsageError for an algorithm that cannot do regression, or a preset that is not meant for it.
    """
    check_preset(settings)
    algorithm, sine = settings.algorithm, settings.dataset == "sinusoid"
    if algorithm in TRANSFER and sine:
        raise UsageError(f"--algorithm={algorithm} classifies images; give --dataset=cifar_fs or so")
    as_published = settings.dataset in OTHER_DATA and (settings.image_size or 84) >= _SMALLEST_UNPADDED
    own = {"inner_lr": 0.01, "filters": 40 if sine else 64, "query": 15, "padded": not as_published}
    own |= own_settings(algorithm, sine=sine, shot=settings.shot)
    fixed = ("steps", "norm") if algorithm in TRANSFER else ()
    given = {name: value for name, value in vars(settings).items() if value is not None and name not in fixed}
    return SimpleNamespace(**vars(settings) | own | given)


def rule_recipe(settings: SimpleNamespace) -> dict[str, Any]:
    """The inner rule's name and settings, for `jmeta.rules.catalog.build`."""
    algorithm = settings.algorithm
    if algorithm.startswith("meta_lstm"):
        size = settings.shot * (1 if settings.dataset == "sinusoid" else settings.way)
        return {
            "name": "meta_lstm",
            "hidden": settings.hidden_units,
            "inputs": settings.inputs
            or ("raw_gradient" if algorithm == "meta_lstm_enhanced" else "loss_and_gradient"),
            "gradient_divisor": float(settings.gradient_divisor or size),
        }
    clip = inner_clip(settings)
    if algorithm in ("maml", "fomaml"):
        return {"name": "sgd", "rate": settings.inner_lr, "clip": clip}
    inputs = settings.inputs or (_TURTLE_INPUTS if settings.inner_steps > 1 else "gradient")
    return {
        "name": "turtle",
        "widths": [settings.hidden_units] * settings.hidden_layers,
        "inputs": inputs.split(","),
        "decay": settings.decay,
        "preprocess": settings.preprocess,
        "learn_rates": settings.learn_rates,
        "clip": clip,
    }


def inner_clip(settings: SimpleNamespace) -> float | None:
    """The largest gradient by value of maml and turtle; the code clamps where there are several steps."""
    return settings.inner_clip or (10.0 if settings.inner_steps > 1 else None)


def adapter_recipe(settings: SimpleNamespace, source: Dataset) -> dict[str, Any]:
    """The adapter's name and settings, for `jmeta.adapters.catalog.build`."""
    from experiments import tasks

    algorithm, regression = settings.algorithm, settings.dataset == "sinusoid"
    model = tasks.model_recipe(settings) | ({} if tasks.backbone(settings) == "resnet12" else {
        "initialise": "uniform"})  # fmt: skip
    if tasks.backbone(settings) == "conv4":
        model["padded"] = settings.padded
    recipe = {
        "model": model,
        "loss_name": "mean_squared_error" if regression else "cross_entropy",
        "smoothing": 0.0,
        "outputs": 1 if regression else settings.way,
    }
    if algorithm in TRANSFER:
        schedule = {
            "steps": settings.inner_steps, "learning_rate": settings.inner_lr, "batch": settings.adapt_batch
        }  # fmt: skip
        if algorithm == "scratch":
            return recipe | schedule | {"name": "from_scratch"}
        classes = pretraining_classes(settings, source)
        return recipe | schedule | {
            "name": "pretrained", "classes": classes, "cosine": algorithm == "baseline_pp"
        }  # fmt: skip
    order = settings.order or ("first" if algorithm == "meta_lstm" else "exact")
    if algorithm in ("fomaml", "turtle_first_order"):
        order = "first"
    return recipe | {
        "name": "gradient",
        "rule": rule_recipe(settings),
        "inner_steps": settings.inner_steps,
        "test_steps": settings.test_inner_steps,
        "order": order,
        "norm": settings.norm,
        "remat": "none" if regression else "step",
    }


def trained_elsewhere(settings: SimpleNamespace) -> str | None:
    """The data set of the training of a run that is tested on another, else None.

    A row of Table 3.4 without training counts as such, too.
    """
    if settings.eval_only:
        name = _config_of(settings.init_from)["flags"]["dataset"]
        return name if name != settings.dataset else None
    crossed = settings.algorithm == "scratch" and (settings.preset or "").startswith("table3_4")
    return OTHER_DATA.get(settings.dataset) if crossed else None


def _config_of(workdir: str) -> dict[str, Any]:
    return json.loads((Path(workdir) / "config.json").read_text())


def pretraining_classes(settings: SimpleNamespace, source: Dataset) -> int:
    """Classes of the pre-training: of the data set at hand, or of the run that is evaluated on it."""
    if not settings.eval_only:
        return len(source.splits["train"].counts)
    classes = _config_of(settings.init_from)["recipe"]["adapter"].get("classes")
    if classes is None:
        raise UsageError(f"--init_from={settings.init_from}: not a run of finetune or baseline_pp")
    return classes


def samplers(settings: SimpleNamespace, source: Dataset) -> dict[str, Any]:
    """Samplers of training, validation and test tasks."""
    from experiments import tasks
    from jmeta.data.episodes import flat_batches

    if settings.dataset == "sinusoid":  # the paper's waves are A sin(x + p), p in 0..pi
        options = {"shot": settings.shot, "query": settings.query, "phase": (-math.pi, 0.0)}
        return {split: source.episodes(split, **options) for split in ("train", "validation", "test")}
    made = tasks.samplers(source, settings)
    if settings.algorithm in ("finetune", "baseline_pp") and not settings.eval_only:
        made["train"] = flat_batches(source.splits["train"], size=settings.pretrain_batch)
    return made


def compose(settings: SimpleNamespace) -> Composition:
    """Adapter, data and optimiser from the flags."""
    from experiments import tasks
    from experiments.run import Composition
    from jmeta.report.published import row_for

    source = tasks.open_dataset(settings)
    size = source.info.shape[:2]
    if not settings.padded and min(size) < _SMALLEST_UNPADDED:
        least = f"{_SMALLEST_UNPADDED}x{_SMALLEST_UNPADDED}"
        raise UsageError(f"--nopadded needs images of {least} or more, these are {size[0]}x{size[1]}")
    algorithm, regression = settings.algorithm, settings.dataset == "sinusoid"
    lstm = algorithm.startswith("meta_lstm")
    origin = trained_elsewhere(settings)
    recipe = {
        "adapter": adapter_recipe(settings, source),
        "optimiser": {
            "name": "adam",
            "learning_rate": settings.learning_rate,
            "drops": parse_drops(settings.learning_rate_drops),
            "clip_norm": settings.clip_norm or (0.25 if lstm else None),
        },
        "chunk": settings.chunk,
        "reduce": "sum",
        "input": {"shape": source.info.shape, "dtype": "float32"},
    }
    if algorithm in META_LEARNERS and not lstm and inner_clip(settings):
        recipe["clamp"] = {"limit": inner_clip(settings), "within": "params"}
    if settings.num_seeds > 1:
        recipe["seeds"] = settings.num_seeds
    if settings.skip_nonfinite:
        recipe["skip_nonfinite"] = True
    return Composition(
        recipe=recipe,
        dataset=source,
        **samplers(settings, source),
        measure=("squared_error", "min") if regression else ("accuracy", "max"),
        published=row_for(
            paper="turtle", dataset=settings.dataset, method=PAPER_NAMES[algorithm],
            backbone=tasks.backbone(settings), way=settings.way, shot=settings.shot,
            variant=origin and f"from {origin}",
        ),
        task_seed=TASK_SEED,
    )  # fmt: skip


def run(settings: SimpleNamespace) -> int:
    """Train and test."""
    from experiments import run as skeleton

    return skeleton.run("learned_optimizers", settle(settings), compose)


EXPERIMENT = Experiment("learned_optimizers", __doc__ or "", FLAGS, presets(), run, stray)

if __name__ == "__main__":
    launch(EXPERIMENT)
