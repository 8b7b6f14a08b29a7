"""MAML, first-order MAML and ANIL: meta-train and test adaptation by gradient steps.

Finn et al., ICML 2017; Raghu et al., ICLR 2020.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from experiments.common import Experiment, Flag, launch, shared

if TYPE_CHECKING:
    from experiments.run import Composition

# Finn et al. 2017, App. A: Omniglot with 64 filters, MiniImagenet with 32.
_FINN = {"optimizer": "adam", "learning_rate": 0.001, "steps": 60000, "algorithm": "maml"}
PRESETS = {
    "maml_omniglot_1shot": _FINN
    | {"dataset": "omniglot", "rotations": True, "shot": 1, "query": 1, "meta_batch": 32, "inner_lr": 0.4,
       "inner_steps": 1, "test_inner_steps": 3},
    "maml_omniglot_5shot": _FINN
    | {"dataset": "omniglot", "rotations": True, "shot": 5, "query": 5, "meta_batch": 32, "inner_lr": 0.4,
       "inner_steps": 1, "test_inner_steps": 3},
    "maml_mini_imagenet_1shot": _FINN
    | {"dataset": "mini_imagenet", "filters": 32, "shot": 1, "meta_batch": 4, "inner_lr": 0.01,
       "inner_steps": 5, "test_inner_steps": 10, "clip_norm": 10.0},
    "maml_mini_imagenet_5shot": _FINN
    | {"dataset": "mini_imagenet", "filters": 32, "shot": 5, "meta_batch": 2, "inner_lr": 0.01,
       "inner_steps": 5, "test_inner_steps": 10, "clip_norm": 10.0},
    # What CNN+LSTM and CNN-F+LSTM of experiments.online_few_shot start from (--encoder_from).
    "encoder_omniglot": _FINN
    | {"dataset": "omniglot", "split": "lake", "rotations": True, "backbone": "conv_encoder", "shot": 5,
       "meta_batch": 32, "inner_lr": 0.4, "inner_steps": 1},
    "encoder_cifar_fs": _FINN
    | {"dataset": "cifar_fs", "backbone": "conv_encoder", "shot": 5, "inner_lr": 0.01, "inner_steps": 5},
    "maml_sinusoid": _FINN
    | {"dataset": "sinusoid", "shot": 10, "query": 10, "meta_batch": 25, "inner_lr": 0.01, "filters": 40,
       "inner_steps": 1, "test_inner_steps": 10, "steps": 70000},
}  # fmt: skip

FLAGS = (
    {
        "algorithm": Flag(
            "enum",
            "maml",
            "maml; fomaml, its first-order form; anil, which adapts the last layer alone",
            ("maml", "fomaml", "anil"),
        )
    }
    | shared("dataset", "data_dir", "split", "download", "image_size", "rotations", "augment")
    | shared("way", "shot", "query", "backbone", "filters", "drop_block", "global_pool", "norm")
    | {
        "remat": Flag(
            "enum", "step", "what --order=exact recomputes, for memory independent of the steps",
            ("step", "none"),
        ),
    }
    | shared("inner_lr", "inner_steps", "test_inner_steps", "order", "label_smoothing")
    | shared("optimizer", "learning_rate_drops", "weight_decay", "clip_norm", optimizer="adam")
    | shared("learning_rate", learning_rate=0.001)
    | shared("meta_batch", "chunk", "steps", "eval_every", "validation_tasks", "eval_tasks", meta_batch=4)
    | shared("checkpoint_every", "log_every", "max_minutes", "seed", "init_from", "eval_only", "workdir")
    | shared("preset", "distributed", "precision")
)  # fmt: skip


def stray(settings: SimpleNamespace) -> dict[str, str]:
    """Flags that mean nothing beside the others, and why."""
    from experiments.tasks import stray as stray_tasks

    reasons = stray_tasks(settings)
    if settings.eval_only:
        reasons["seed"] = "what is evaluated is learned, and the test's tasks are fixed"
    if settings.algorithm == "fomaml":
        reasons["order"] = "fomaml is first order"
    if settings.algorithm == "fomaml" or settings.order != "exact":
        reasons["remat"] = "only --order=exact recomputes"
    return reasons


def compose(settings: SimpleNamespace) -> Composition:
    """The gradient adapter, data and optimiser from the flags."""
    from experiments import tasks
    from experiments.run import Composition
    from jmeta.report.published import row_for

    source = tasks.open_dataset(settings)
    regression = settings.dataset == "sinusoid"
    order = "first" if settings.algorithm == "fomaml" else settings.order
    adapter = {
        "name": settings.algorithm,
        "model": tasks.model_recipe(settings),
        "loss_name": "mean_squared_error" if regression else "cross_entropy",
        "smoothing": settings.label_smoothing,
        "outputs": 1 if regression else settings.way,
        "inner_lr": settings.inner_lr,
        "inner_steps": settings.inner_steps,
        "test_steps": settings.test_inner_steps,
        "order": order,
        "norm": settings.norm,
        "remat": settings.remat if order == "exact" else "none",
    }
    recipe = {
        "adapter": adapter,
        "optimiser": tasks.optimiser_recipe(settings),
        "chunk": settings.chunk,
        "input": {"shape": source.info.shape, "dtype": "float32"},
    }
    return Composition(
        recipe=recipe,
        dataset=source,
        **tasks.samplers(source, settings),
        measure=("squared_error", "min") if regression else ("accuracy", "max"),
        published=row_for(
            dataset=settings.dataset,
            method=settings.algorithm.upper(),
            backbone=tasks.backbone(settings),
            way=settings.way,
            shot=settings.shot,
        ),
    )


def run(settings: SimpleNamespace) -> int:
    """Train and test."""
    from experiments import run as skeleton

    return skeleton.run("maml", settings, compose)


EXPERIMENT = Experiment("maml", __doc__ or "", FLAGS, PRESETS, run, stray)

if __name__ == "__main__":
    launch(EXPERIMENT)
