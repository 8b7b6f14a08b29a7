"""COMLN: meta-train and test continuous-time adaptation (Deleu et al., ICLR 2022)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from experiments.common import Experiment, Flag, launch, shared, without

if TYPE_CHECKING:
    from experiments.run import Composition

SCHEDULE = "20000:0.006,40000:0.0012,50000:0.00024"  # Lee et al. 2019, which App. E.5 follows
PAPER = {
    "way": 5, "query": 15, "steps": 60000, "learning_rate": 0.1, "learning_rate_drops": SCHEDULE,
    "weight_decay": 5e-4, "optimizer": "sgd", "eval_every": 1000, "validation_tasks": 600,
    "checkpoint_every": 1000, "eval_tasks": 1000,
}  # fmt: skip

ADAPTER_FLAGS = ("horizon", "learn_horizon", "task_horizon", "initial_scale", "method", "solver", "ridge",
                 "norm")  # fmt: skip


def _presets() -> dict[str, dict[str, Any]]:
    """Every row of Tables 2, 4 and 5 that is COMLN's, then the settings for data without a row."""
    presets = {}
    for data in ("mini_imagenet", "tiered_imagenet"):
        for network in ("conv4", "resnet12"):
            for shot in (1, 5):
                row = {"dataset": data, "backbone": network, "shot": shot}
                presets[f"table2_{data}_{network}_{shot}shot"] = PAPER | row
    for shot in (1, 5):
        row = {"dataset": "mini_imagenet", "backbone": "conv4", "shot": shot}
        presets[f"table4_rk_{shot}shot"] = PAPER | row | {"solver": "dopri5"}
        presets[f"table4_euler_{shot}shot"] = PAPER | row | {"solver": "euler", "step_size": 0.01}
    for shot in (1, 5):
        row = {"dataset": "features", "backbone": "identity", "shot": shot, "meta_batch": 16, "steps": 2000}
        presets[f"table5_{shot}shot"] = PAPER | row | {"learning_rate_drops": "", "eval_every": 200}
    for shot in (1, 5):
        presets[f"cifar_fs_{shot}shot"] = PAPER | {"dataset": "cifar_fs", "backbone": "conv4", "shot": shot}
        drops = "1500:0.02,2200:0.004" if shot == 1 else "1400:0.02,2000:0.004"
        presets[f"omniglot_{shot}shot"] = {
            "dataset": "omniglot", "split": "lake", "rotations": True, "shot": shot, "query": 5,
            "steps": 2600 if shot == 1 else 2400, "learning_rate_drops": drops, "weight_decay": 5e-4,
            "eval_every": 200, "checkpoint_every": 200,
        }  # fmt: skip
    presets["demo"] = {
        "dataset": "glyphs", "filters": 32, "query": 5, "meta_batch": 4, "steps": 600, "weight_decay": 5e-4,
        "learning_rate_drops": "400:0.02", "log_every": 20, "eval_every": 200, "validation_tasks": 100,
        "eval_tasks": 500,
    }  # fmt: skip
    return presets


FLAGS = (
    shared("dataset", "data_dir", "split", "download", "image_size", "rotations", "augment")
    | shared("way", "shot", "query", "backbone", "filters", "drop_block", "global_pool", "norm")
    | {
        "normalise_features": Flag("boolean", False, "divide features by the root of their number"),
        "horizon": Flag("float", 1.0, "initial horizon T; inf, with --ridge, adapts to the equilibrium"),
        "learn_horizon": Flag("boolean", True, "learn T; --nolearn_horizon keeps it (Fig. 5, right)"),
        "task_horizon": Flag("boolean", False, "a learned horizon for each task (section 7)"),
        "initial_scale": Flag(
            "enum", "way", "deviation of W0: 1/sqrt(way) or 1/sqrt(feature)", ("way", "feature")
        ),
        "method": Flag("enum", "adjoint", "how the flow is differentiated", ("adjoint", "forward", "full")),
        "solver": Flag(
            "enum",
            None,
            "ODE solver [tsit5; auto, which hands over to a stiff one, for soft labels or a ridge]",
            ("auto", "tsit5", "dopri5", "euler", "rodas", "kvaerno5"),
        ),
        "step_size": Flag("float", None, "step of --solver=euler; T / step_size gradient steps (ANIL)"),
        "rtol": Flag("float", 1e-5, "relative tolerance of the solver"),
        "atol": Flag("float", 1e-6, "absolute tolerance of the solver"),
        "ridge": Flag("float", 0.0, "strength of the proximal term ridge/2 |W - W0|^2"),
        "solver_steps": Flag("integer", 4096, "most steps of the solver; a flow that needs more is an error"),
    }
    | shared("label_smoothing", "optimizer", "learning_rate", "learning_rate_drops", "weight_decay")
    | shared("clip_norm", "meta_batch", "chunk", "steps", "eval_every", "validation_tasks", "eval_tasks")
    | shared("checkpoint_every", "log_every", "max_minutes", "seed", "init_from", "eval_only", "workdir")
    | shared("preset", "distributed", "precision")
)
FLAGS["dataset"] = without(FLAGS["dataset"], "sinusoid")
FLAGS["norm"] = FLAGS["norm"]._replace(choices=("batch", "support", "running"))


def stray(settings: SimpleNamespace) -> dict[str, str]:
    """Flags that mean nothing beside the others, and why."""
    from experiments.tasks import stray as stray_tasks

    reasons = stray_tasks(settings)
    if settings.eval_only:
        reasons["seed"] = "what is evaluated is learned, and the test's tasks are fixed"
    if settings.solver != "euler":
        reasons["step_size"] = "only --solver=euler has a fixed step"
    else:
        reasons |= dict.fromkeys(("rtol", "atol"), "--solver=euler has a fixed step")
    if settings.horizon == float("inf"):
        settled = "an infinite horizon is solved for its equilibrium"
        reasons |= dict.fromkeys(
            ("method", "solver", "step_size", "rtol", "atol", "solver_steps", "learn_horizon"), settled
        )
    return reasons


def published_row(settings: SimpleNamespace) -> dict[str, Any] | None:
    """The paper's row for these settings; embeddings are LEO's (Table 5) where the preset says so."""
    from experiments.tasks import backbone
    from jmeta.report.published import row_for

    data, network = settings.dataset, backbone(settings)
    if (settings.preset or "").startswith("table5"):
        data, network = "mini_imagenet", "leo_embeddings"
    variant = "Euler" if settings.solver == "euler" else None
    return row_for(data, "COMLN", network, settings.way, settings.shot, variant=variant)


def compose(settings: SimpleNamespace) -> Composition:
    """COMLN's adapter, data and optimiser from the flags."""
    import numpy as np

    from experiments import tasks
    from experiments.run import Composition

    source = tasks.open_dataset(settings)
    euler = settings.solver == "euler"
    adapter = {
        "name": "comln",
        "model": tasks.model_recipe(settings),
        "loss_name": "cross_entropy",
        "smoothing": settings.label_smoothing,
        "outputs": settings.way,
        "max_steps": settings.solver_steps,
        **({"step_size": settings.step_size} if euler else {"rtol": settings.rtol, "atol": settings.atol}),
        **{
            name: getattr(settings, name)
            for name in [
                "horizon",
                "learn_horizon",
                "task_horizon",
                "initial_scale",
                "method",
                "solver",
                "ridge",
                "norm",
            ]
        },
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
        learned=lambda state: (
            {"horizon": float(np.exp(state.meta["log_horizon"]))} if "log_horizon" in state.meta else {}
        ),
        published=published_row(settings),
    )


def run(settings: SimpleNamespace) -> int:
    """Train and test."""
    from experiments import run as skeleton

    return skeleton.run("comln", settings, compose)


EXPERIMENT = Experiment("comln", __doc__ or "", FLAGS, _presets(), run, stray)

if __name__ == "__main__":
    launch(EXPERIMENT)
