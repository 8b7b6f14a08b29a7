"""Online continual few-shot learning: one class after another, one example at a time, then all are asked for.

Babu, Savarese & Maire, Online Meta-Learning via Learning with Layer-Distributed Memory, NeurIPS 2021,
section 4.3: CL+LSTM, which learns by its state, beside OML and ANML, which learn by gradients. A subtask is
one class; the classes of a task have different labels at random, of `--slots` that there are.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from experiments.common import Experiment, Flag, launch, shared, without

if TYPE_CHECKING:
    from experiments.run import Composition

ALGORITHMS = ("cl_lstm", "oml", "anml")
LENGTHS = (5, 10, 15, 20)
_INNER_LR = {"oml": 0.03, "anml": 0.1}
_TASKS = {
    "dataset": "omniglot", "split": "lake", "rotations": True, "subtask_shot": 5, "slots": 20, "query": 5,
    "test_query": 15, "meta_batch": 8, "chunk": 8, "eval_every": 1000, "validation_tasks": 200,
    "checkpoint_every": 1000, "eval_tasks": 1000,
}  # fmt: skip
_PAPER: dict[str, dict[str, Any]] = {
    "cl_lstm": {"filters": 64, "hidden": 256, "clip_norm": 1.0, "learning_rate": 0.001, "standardise": True},
    "oml": {"network": "paper", "filters": 256, "hidden": 1024, "clip_norm": 10.0, "learning_rate": 0.0001,
            "steps": 40000, "chunk": 2},
    "anml": {"network": "paper", "filters": 256, "modulator_filters": 112, "order": "first",
             "clip_norm": 10.0, "learning_rate": 0.001, "steps": 20000},
}  # fmt: skip
_SMALL: dict[str, dict[str, Any]] = {
    "cl_lstm": {"filters": 16, "hidden": 64, "clip_norm": 1.0, "learning_rate": 0.003, "standardise": True},
    "oml": {"filters": 64, "hidden": 256, "clip_norm": 10.0, "learning_rate": 0.001},
    "anml": {"filters": 32, "modulator_filters": 32, "order": "first", "clip_norm": 10.0,
             "learning_rate": 0.001},
}  # fmt: skip


def _presets() -> dict[str, dict[str, Any]]:
    """Figures 3 and 4, and the CPU-sized setting of the same comparison."""
    presets: dict[str, dict[str, Any]] = {}
    for algorithm in ALGORITHMS:
        for subtasks in LENGTHS:
            own = _TASKS | _PAPER[algorithm] | {"algorithm": algorithm, "subtasks": subtasks}
            if algorithm == "cl_lstm":
                steps = 45000 + 1000 * (subtasks - 5)
                drops = f"{steps * 60 // 100}:0.0001,{steps * 85 // 100}:0.00001"
                own |= {"steps": steps, "learning_rate_drops": drops} | _curriculum(subtasks, 5000)
            if algorithm == "oml":
                own["order"] = "mixed" if subtasks == 5 else "first"
            presets[f"figure3_{algorithm}_{subtasks}"] = own
        presets[f"figure4_{algorithm}"] = presets[f"figure3_{algorithm}_20"]
        for subtasks in LENGTHS:
            own = _TASKS | _SMALL[algorithm] | {
                "algorithm": algorithm, "subtasks": subtasks, "image_size": 14, "meta_batch": 4,
                "steps": 10000, "eval_every": 500, "checkpoint_every": 500,
            }  # fmt: skip
            if algorithm == "cl_lstm":
                own |= _curriculum(subtasks, 2000)
            presets[f"small_{algorithm}_{subtasks}"] = own
    return presets


def _curriculum(subtasks: int, every: int) -> dict[str, Any]:
    """The lengths below `subtasks` one after another."""
    shorter = [length for length in LENGTHS if length < subtasks]
    return {"curriculum": ",".join(map(str, shorter)), "curriculum_every": every} if shorter else {}


FLAGS = (
    {"algorithm": Flag("enum", "cl_lstm", "the learner", ALGORITHMS)}
    | shared("dataset", "data_dir", "split", "download", "image_size", "rotations", "augment")
    | {
        "subtasks": Flag("integer", 5, "classes of a task, learned one after another"),
        "subtask_shot": Flag("integer", 5, "examples of a class in the stream"),
        "slots": Flag("integer", 20, "labels, of which a task uses as many as it has subtasks"),
    }
    | shared("query", query=5)
    | {
        "test_query": Flag("integer", 15, "query examples of a class at validation and test"),
        "curriculum": Flag("string", "", "subtasks of shorter tasks to begin with, as 5,10,15"),
    }
    | shared("curriculum_every", "inject", "skip", "standardise", "filters")
    | {
        "hidden": Flag("integer", None, "size of cl_lstm's LSTM; width of oml's first dense layer [256]"),
        "modulator_filters": Flag("integer", 64, "channels of anml's neuromodulatory network"),
        "network": Flag(
            "enum", "lite", "form of oml and anml", ("lite", "paper"),
            {"lite": "padded convolutions; oml four of stride 2, anml four blocks with pooling (of images "
                     "below 16x16 three)",
             "paper": "unpadded convolutions; oml of strides 1, 1, 1, 2, anml three blocks"},
        ),
        "order": Flag(
            "enum", None, "how the inner loop is differentiated [mixed for oml, first for anml]",
            ("exact", "mixed", "first"),
        ),
        "inner_lr": Flag("float", None, "inner learning rate [0.03 for oml, 0.1 for anml]"),
        "test_inner_optimizer": Flag("enum", None, "inner rule at test [as in training]", ("sgd", "adam")),
        "test_inner_lr": Flag("float", None, "its learning rate [as in training]"),
    }
    | shared("remat_every", "truncate_every", "learning_rate_drops", "weight_decay")
    | shared("learning_rate", "clip_norm", learning_rate=0.001, clip_norm=1.0)
    | shared("meta_batch", "chunk", "steps", "eval_every", "validation_tasks", "eval_tasks", chunk=8)
    | shared("checkpoint_every", "log_every", "max_minutes", "seed", "num_seeds", "init_from", "eval_only")
    | shared("workdir", "preset", "distributed", "precision")
)  # fmt: skip
FLAGS["dataset"] = without(FLAGS["dataset"], "sinusoid", "features")
FLAGS["filters"] = FLAGS["filters"]._replace(help="channels of a layer of cl_lstm, or of the network")


def stray(settings: SimpleNamespace) -> dict[str, str]:
    """Flags that mean nothing beside the others, and why."""
    from experiments.tasks import stray_data

    algorithm, reasons = settings.algorithm, stray_data(settings)
    if algorithm == "cl_lstm":
        gradients = ("network", "order", "inner_lr", "test_inner_optimizer", "test_inner_lr")
        reasons |= dict.fromkeys(gradients, "cl_lstm has no inner loop")
    else:
        memories = ("inject", "skip", "remat_every", "truncate_every")
        reasons |= dict.fromkeys(memories, "only cl_lstm has it")
    if algorithm != "anml":
        reasons["modulator_filters"] = "only anml has it"
    else:
        reasons["hidden"] = "anml has no such layer"
    if not settings.curriculum:
        reasons["curriculum_every"] = "there is no --curriculum"
    return reasons


def adapter_recipe(settings: SimpleNamespace) -> dict[str, Any]:
    """The learner's name and settings, for `jmeta.adapters.catalog.build`."""
    algorithm = settings.algorithm
    common = {"loss_name": "cross_entropy", "smoothing": 0.0, "outputs": settings.slots}
    if algorithm == "cl_lstm":
        memory = {
            "name": "cl_lstm", "filters": settings.filters, "hidden": settings.hidden or 256,
            "inject": settings.inject, "skip": settings.skip,
        }  # fmt: skip
        periods = {"remat_every": settings.remat_every, "truncate_every": settings.truncate_every}
        return {"name": "memory", "model": memory} | periods | common
    rate = settings.inner_lr or _INNER_LR[algorithm]
    recipe = {
        "name": algorithm,
        "model": _oml_network(settings) if algorithm == "oml" else _anml_network(settings),
        "rule": {"name": "sgd", "rate": rate},
        "order": settings.order or ("mixed" if algorithm == "oml" else "first"),
    }
    if settings.test_inner_optimizer or settings.test_inner_lr:
        name = settings.test_inner_optimizer or "sgd"
        recipe["test_rule"] = {"name": name, "rate": settings.test_inner_lr or rate}
    return recipe | common


def _oml_network(settings: SimpleNamespace) -> dict[str, Any]:
    paper = settings.network == "paper"
    strides = [1, 1, 1, 2] if paper else [2, 2, 2, 2]
    return {"filters": settings.filters, "strides": strides, "padded": not paper,
            "hidden": settings.hidden or 256}  # fmt: skip


def _anml_network(settings: SimpleNamespace) -> dict[str, Any]:
    """The normalisation of single images needs more than one place, so that small ones are pooled less."""
    three = [True, True, False]
    paper, small = settings.network == "paper", (settings.image_size or 28) < 16
    return {
        "filters": settings.filters,
        "modulator_filters": settings.modulator_filters,
        "pooled": three if paper or small else [True] * 4,
        "modulator_pooled": three,
        "padded": not paper,
    }


def compose(settings: SimpleNamespace) -> Composition:
    """The learner, the tasks and the optimiser from the flags."""
    from experiments import tasks
    from experiments.run import Composition
    from jmeta.data.online_streams import continual_few_shot

    source = tasks.open_dataset(settings)
    scale = tasks.standardisation(source, settings)

    def sampler(split: str, subtasks: int) -> Any:
        query = settings.query if split == "train" else settings.test_query
        varied = tasks.variations(split, settings)
        episodes = source.episodes(split, way=subtasks, shot=settings.subtask_shot, query=query, **varied)
        return continual_few_shot(episodes, subtasks=subtasks, slots=settings.slots)

    recipe = {
        "adapter": adapter_recipe(settings),
        "subtasks": settings.subtasks,
        "optimiser": tasks.optimiser_recipe(settings),
        "chunk": settings.chunk,
        "input": {"shape": source.info.shape, "dtype": "float32", **scale},
    }
    if settings.num_seeds > 1:
        recipe["seeds"] = settings.num_seeds
    stages = tasks.stages(settings, settings.subtasks, "subtasks")
    return Composition(
        published=published_row(settings),
        recipe=recipe,
        dataset=source,
        train=sampler("train", settings.subtasks),
        validation=sampler("validation", settings.subtasks),
        test=sampler("test", settings.subtasks),
        curriculum=tuple((until, sampler("train", subtasks)) for subtasks, until in stages),
        measure=("accuracy", "max"),
    )


def published_row(settings: SimpleNamespace) -> dict[str, Any] | None:
    """What the paper's text says of Figure 4, None where tasks or network are not those of the figure."""
    from jmeta.report.published import row_for

    paper = {"inject": "first", "skip": "add"} | _PAPER[settings.algorithm]
    networks = [adapter_recipe(one)["model"] for one in (settings, SimpleNamespace(**vars(settings) | paper))]
    same_images = settings.image_size in (None, 28) and settings.split == _TASKS["split"]
    if networks[0] != networks[1] or not same_images or settings.slots != _TASKS["slots"]:
        return None
    method = settings.algorithm.replace("_", "+")
    filters = {"way": settings.subtasks, "shot": settings.subtask_shot, "paper": "cl_lstm"}
    return row_for(settings.dataset, method, **filters)


def run(settings: SimpleNamespace) -> int:
    """Train and test."""
    from experiments import run as skeleton

    return skeleton.run("online_continual", settings, compose)


EXPERIMENT = Experiment("online_continual", __doc__ or "", FLAGS, _presets(), run, stray)

if __name__ == "__main__":
    launch(EXPERIMENT)
