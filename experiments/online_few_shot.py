"""Online few-shot learning: examples one at a time, labels that arrive later, no gradient at test.

Babu, Savarese & Maire, Online Meta-Learning via Learning with Layer-Distributed Memory, NeurIPS 2021: CL+LSTM
beside LSTM, CNN+LSTM, NTM, APL, OPN and CPM. k-shot accuracy is that on the (k+1)-th presentation of a class.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from experiments.common import Experiment, Flag, UsageError, launch, shared, without

if TYPE_CHECKING:
    from collections.abc import Callable

    from experiments.run import Composition

ALGORITHMS = ("cl_lstm", "cnn_lstm", "cnn_f_lstm", "lstm", "ntm", "apl", "opn", "cpm")
PAPER_NAMES = {"cl_lstm": "CL+LSTM", "cnn_lstm": "CNN+LSTM", "cnn_f_lstm": "CNN-F+LSTM", "lstm": "LSTM",
               "ntm": "NTM", "apl": "APL", "opn": "OPN", "cpm": "CPM"}  # fmt: skip
_PAPER = {
    "way": 5, "presentations": 10, "meta_batch": 16, "steps": 100000, "learning_rate": 0.001,
    "learning_rate_drops": "60000:0.0001,85000:0.00001", "clip_norm": 1.0, "eval_every": 1000,
    "validation_tasks": 200, "checkpoint_every": 1000, "eval_tasks": 1000, "standardise": True,
}  # fmt: skip
_REN = {"steps": 80000, "learning_rate_drops": "40000:0.0001,60000:0.00001", "clip_norm": 5.0,
        "weight_decay": 1e-5}  # fmt: skip
_APL = {"meta_batch": 32, "learning_rate": 0.0001, "steps": 20000, "clip_norm": 5.0,
        "learning_rate_drops": ""}  # fmt: skip
_PIXELS = {"steps": 80000, "learning_rate_drops": "", "clip_norm": 5.0}
_OWN = {"opn": _REN, "cpm": _REN, "apl": _APL, "lstm": _PIXELS, "ntm": _PIXELS | {"steps": 100000}}
_DATA = {
    "omniglot": {"dataset": "omniglot", "split": "lake", "rotations": True},
    "cifar_fs": {"dataset": "cifar_fs", "augment": "crop_flip"},
}


def _presets() -> dict[str, dict[str, Any]]:
    """Rows of Tables 1, 2 and 3, and the CPU-sized setting of the same comparison."""
    presets: dict[str, dict[str, Any]] = {}
    for data, values in _DATA.items():
        for algorithm in ("cl_lstm", "lstm", "ntm", "apl", "opn", "cpm"):
            own = _OWN.get(algorithm, {})
            presets[f"table1_{data}_{algorithm}"] = _PAPER | values | {"algorithm": algorithm} | own
    for algorithm in ("cnn_f_lstm", "cnn_lstm"):  # whose encoder starts from one that saw images in 0..1
        own = {"algorithm": algorithm, "standardise": False}
        presets[f"table2_{algorithm}"] = _PAPER | _DATA["omniglot"] | own
    for inject in ("lstm", "first", "all"):
        presets[f"table2_cl_lstm_{inject}"] = _PAPER | _DATA["omniglot"] | {"inject": inject}
    for delay in (2, 4, 5):
        presets[f"table3_delay{delay}"] = _PAPER | _DATA["cifar_fs"] | {"delay": delay}
        if delay > 2:
            halved = {"steps": 50000, "learning_rate_drops": "30000:0.0001,42500:0.00001"}
            presets[f"table3_delay{delay}_pretrained"] = presets[f"table3_delay{delay}"] | halved
    small = _PAPER | _DATA["omniglot"] | {
        "image_size": 14, "filters": 16, "hidden": 64, "steps": 16000, "learning_rate": 0.003,
        "learning_rate_drops": "", "curriculum": "2,4,6,8", "curriculum_every": 3000, "eval_every": 500,
        "checkpoint_every": 500, "chunk": 4,
    }  # fmt: skip
    for algorithm in ("cl_lstm", "lstm", "ntm", "apl", "opn", "cpm"):
        presets[f"small_{algorithm}"] = small | {"algorithm": algorithm}
    presets["small_cl_lstm_only_lstm"] = small | {"inject": "lstm"}
    presets["small_delay3"] = small | {"delay": 3}
    return presets


FLAGS = (
    {"algorithm": Flag("enum", "cl_lstm", "the memory", ALGORITHMS)}
    | shared("dataset", "data_dir", "split", "download", "image_size", "rotations", "augment", "way")
    | {
        "presentations": Flag("integer", 10, "examples of a class in a stream"),
        "delay": Flag("integer", 1, "steps after which a label arrives"),
        "encoder_from": Flag(
            "string", None,
            "cnn_lstm and cnn_f_lstm: start from the network of this workdir, of "
            "experiments.maml --backbone=conv_encoder",
        ),
        "hidden": Flag("integer", None, "size of the LSTM [256; 200 for lstm and ntm]"),
        "curriculum": Flag("string", "", "presentations of shorter streams to begin with, as 2,4,6,8"),
    }
    | shared("curriculum_every", "inject", "skip", "remat_every", "truncate_every")
    | shared("standardise", "filters", "learning_rate_drops", "weight_decay")
    | shared("learning_rate", "clip_norm", learning_rate=0.001, clip_norm=1.0)
    | shared("meta_batch", "chunk", "steps", "eval_every", "validation_tasks", "eval_tasks", meta_batch=16)
    | shared("checkpoint_every", "log_every", "max_minutes", "seed", "num_seeds", "init_from", "eval_only")
    | shared("workdir", "preset", "distributed", "precision")
)  # fmt: skip
FLAGS["dataset"] = without(FLAGS["dataset"], "sinusoid", "features")
FLAGS["filters"] = FLAGS["filters"]._replace(help="channels of a layer of cl_lstm, or of the encoder")


def stray(settings: SimpleNamespace) -> dict[str, str]:
    """Flags that mean nothing beside the others, and why."""
    from experiments.tasks import stray_data

    algorithm, reasons = settings.algorithm, stray_data(settings)
    if algorithm != "cl_lstm":
        reasons |= dict.fromkeys(("inject", "skip"), "only cl_lstm has it")
    if not algorithm.startswith("cnn"):
        reasons["encoder_from"] = f"{algorithm} has no encoder that is trained before"
    if settings.encoder_from:
        reasons["standardise"] = "the encoder of --encoder_from saw images as they are"
    if algorithm == "cnn_f_lstm":
        reasons["weight_decay"] = "it would move the frozen encoder"
    if algorithm in ("lstm", "ntm"):
        reasons["filters"] = f"{algorithm} sees pixels"
    if algorithm in ("opn", "apl"):
        reasons["hidden"] = f"{algorithm} has no LSTM"
    if not settings.curriculum:
        reasons["curriculum_every"] = "there is no --curriculum"
    return reasons


def memory_recipe(settings: SimpleNamespace) -> dict[str, Any]:
    """The memory's name and settings, for `jmeta.memory.catalog.build`."""
    algorithm = settings.algorithm
    if algorithm == "cl_lstm":
        return {
            "name": "cl_lstm", "way": settings.way, "filters": settings.filters,
            "hidden": settings.hidden or 256, "inject": settings.inject, "skip": settings.skip,
        }  # fmt: skip
    if algorithm in ("lstm", "ntm"):
        return {"name": algorithm, "way": settings.way, "hidden": settings.hidden or 200}
    encoder: dict[str, Any] = {"filters": settings.filters}
    if algorithm.startswith("cnn"):
        frozen = algorithm == "cnn_f_lstm"
        return {"name": "lstm", "way": settings.way, "hidden": settings.hidden or 256, "encoder": encoder,
                "frozen": frozen}  # fmt: skip
    recipe = {"name": algorithm, "way": settings.way, "delay": settings.delay}
    if algorithm == "apl":
        return recipe | {"encoder": encoder, "noise": 0.1}
    encoder["pooled"] = [True] * (4 if min_side(settings) >= 16 else 3)
    if algorithm == "opn":
        return recipe | {"encoder": encoder}
    return recipe | {"encoder": encoder | {"last_relu": False}, "hidden": settings.hidden or 256}


def min_side(settings: SimpleNamespace) -> int:
    """The image size where a flag gives it; what the datasets have is at least 28."""
    return settings.image_size or 28


def check_origin(settings: SimpleNamespace) -> None:
    """Raise UsageError for a preset of something pre-trained without the run that trained it."""
    preset = settings.preset or ""
    if preset.endswith("_pretrained") and not settings.init_from:
        raise UsageError(f"--preset={preset} goes on from a run with --delay=1: give --init_from=WORKDIR")
    if settings.encoder_from or settings.init_from:
        return
    if settings.algorithm == "cnn_f_lstm" or preset == "table2_cnn_lstm":
        raise UsageError(
            f"--algorithm={settings.algorithm}: its encoder has been trained before (section 4.1); give "
            "--encoder_from=WORKDIR, a run of experiments.maml --backbone=conv_encoder"
        )


def pretrained_encoder(settings: SimpleNamespace) -> tuple[str, Callable[[Any], Any]] | None:
    """The flag, and what puts the network of `--encoder_from` into fresh parameters; None without the flag.

    Raises UsageError for a workdir without such a network.
    """
    if not settings.encoder_from:
        return None
    import jax
    import jax.numpy as jnp

    from jmeta.outer.load import load

    flag = f"--encoder_from={settings.encoder_from}"
    _, state = load(settings.encoder_from)
    if "params" not in state.meta or "conv_0" not in state.meta["params"]:
        raise UsageError(
            f"{flag}: it learned no conv_encoder; give a run of experiments.maml --backbone=conv_encoder"
        )
    learned = {name: leaf for name, leaf in state.meta["params"].items() if name != "head"}
    if settings.num_seeds > 1:
        learned = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], settings.num_seeds, axis=0), learned)
    return flag, lambda meta: meta._replace(encoder=learned)


def published_row(settings: SimpleNamespace) -> dict[str, Any] | None:
    """The row of Table 1, 2 or 3 for these settings, None where tasks or network are not those of the row."""
    from jmeta.report.published import row_for

    algorithm, dataset, delay = settings.algorithm, settings.dataset, settings.delay
    paper = {"way": 5, "filters": 64, "hidden": None, "skip": "add"}
    if delay > 1:
        paper["inject"] = "first"
    sizes = {"omniglot": (None, 28), "cifar_fs": (None, 32)}
    if (
        memory_recipe(settings) != memory_recipe(SimpleNamespace(**vars(settings) | paper))
        or settings.image_size not in sizes.get(dataset, ())
        or settings.split != _DATA[dataset].get("split")
        or settings.presentations != 10
    ):
        return None
    variant = f"delay {delay}" + (", pre-trained" if settings.init_from else "") if delay > 1 else None
    if algorithm.startswith("cnn") and delay == 1:
        variant = "pre-trained" if settings.encoder_from else "not pre-trained"
    if algorithm == "cl_lstm" and delay == 1 and settings.inject != "first":
        variant = "labels to LSTM" if settings.inject == "lstm" else "labels to all"
    return row_for(dataset, PAPER_NAMES[algorithm], way=5, variant=variant, paper="cl_lstm")


def compose(settings: SimpleNamespace) -> Composition:
    """The memory, the streams and the optimiser from the flags."""
    from experiments import tasks
    from experiments.run import Composition
    from jmeta.data.online_streams import online_few_shot

    check_origin(settings)
    length = settings.way * settings.presentations
    if settings.delay >= length:
        raise UsageError(f"--delay={settings.delay}: no label arrives within the {length} steps of a stream")
    source = tasks.open_dataset(settings)
    scale = tasks.standardisation(source, settings)

    def streams(split: str, presentations: int) -> Any:
        varied = tasks.variations(split, settings)
        try:
            episodes = source.episodes(split, way=settings.way, shot=presentations - 1, query=1, **varied)
        except ValueError as error:
            raise UsageError(f"--way={settings.way} --presentations={presentations}: {error}") from None
        return online_few_shot(episodes, delay=settings.delay)

    recipe = {
        "memory": memory_recipe(settings),
        "shots": settings.presentations - 1,
        "remat_every": settings.remat_every,
        "truncate_every": settings.truncate_every,
        "optimiser": tasks.optimiser_recipe(settings),
        "chunk": settings.chunk,
        "input": {"shape": source.info.shape, "dtype": "float32", **scale},
    }
    stages = tasks.stages(settings, settings.presentations, "presentations")
    if settings.num_seeds > 1:
        recipe["seeds"] = settings.num_seeds
    return Composition(
        recipe=recipe,
        dataset=source,
        train=streams("train", settings.presentations),
        validation=streams("validation", settings.presentations),
        test=streams("test", settings.presentations),
        curriculum=tuple((until, streams("train", length)) for length, until in stages),
        measure=("accuracy_5_shot" if settings.presentations > 5 else "accuracy", "max"),
        start=pretrained_encoder(settings),
        published=published_row(settings),
    )


def run(settings: SimpleNamespace) -> int:
    """Train and test."""
    from experiments import run as skeleton

    return skeleton.run("online_few_shot", settings, compose)


EXPERIMENT = Experiment("online_few_shot", __doc__ or "", FLAGS, _presets(), run, stray)

if __name__ == "__main__":
    launch(EXPERIMENT)
