"""Online few-shot learning: examples one at a time, labels that arrive later, no gradient at test.

Babu, Savarese & Maire, Online Meta-Learning via Learning with Layer-Distributed Memory, NeurIPS 2021: CL+LSTM
beside LSTM, CNN+LSTM, NTM, APL, OPN and CPM. k-shot accuracy is that on the (k+1)-th presentation of a class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jmeta
from experiments import flags
from experiments.cli import launch
from experiments.errors import UsageError, usage_errors
from experiments.presets import cl_lstm as paper
from experiments.settings import Experiment, Settings
from jmeta import registry

if TYPE_CHECKING:
    from experiments.runner import Run
    from jmeta.data.source import Sampler
    from jmeta.types import PyTree

# The network that a memory stands on; the others see images as they are.
ENCODERS = {"cnn_lstm": "conv_encoder", "cnn_f_lstm": "conv_encoder", "apl": "residual_encoder",
            "opn": "conv_encoder", "cpm": "conv_encoder"}  # fmt: skip
ALGORITHMS = {
    name: (
        *(setting for setting in registry.entry("memory", name).settings if setting != "delay"),
        *(["filters"] if name in ENCODERS else []),
        *(["encoder_from"] if name.startswith("cnn") else []),
    )
    for name in ("cl_lstm", "cnn_lstm", "cnn_f_lstm", "lstm", "ntm", "apl", "opn", "cpm")
}


def main(run: Run) -> int:
    """Train and test."""
    settings, algorithm = run.settings, run.settings.algorithm
    way, presentations, delay = settings.way, settings.presentations, settings.delay
    check_origin(algorithm, settings.preset, settings.encoder_from, settings.init_from)
    if delay >= way * presentations:
        raise UsageError(
            f"--delay={delay}: no label arrives within the {way * presentations} steps of a stream"
        )
    arguments = registry.parameters("memory", algorithm)
    side = settings.image_size or 28  # or more: 32 of CIFAR-FS, 84 of miniImageNet
    encoder = describe_encoder(algorithm, settings.filters, side)
    own = settings.take(*registry.entry("memory", algorithm).settings, "way")
    available = {**own, "encoder": encoder, "noise": 0.1}
    memory = {"name": algorithm} | {name: available[name] for name in arguments if name in available}
    with usage_errors():
        source = run.dataset()
        spec = run.learner(
            run.standardized(memory, source),
            None,
            {"name": "stream_accuracy", "shots": presentations - 1},
            **settings.take("remat_every", "truncate_every"),
        )

        def streams(split: str, length: int = presentations) -> Sampler:
            episodes = source.episodes(split, way=way, shot=length - 1, query=1, **run.variations(split))
            return jmeta.online_few_shot(episodes, delay=delay)

        stages = run.curriculum(presentations, "presentations")
        samplers = {split: streams(split) for split in ("train", "validation", "test")}
        curriculum = tuple((until, streams("train", length)) for length, until in stages)
    return run.fit_episodes(
        spec,
        source,
        **samplers,
        curriculum=curriculum,
        measure=("accuracy_5_shot" if presentations > 5 else "accuracy", "max"),
        initial=pretrained_encoder(settings.encoder_from, settings.num_seeds),
        published=published_row(settings),
    )


def describe_encoder(algorithm: str, filters: int, side: int) -> dict[str, Any] | None:
    """Describe the network that a memory stands on; images smaller than 16x16 are pooled once less."""
    if algorithm not in ENCODERS:
        return None
    spec: dict[str, Any] = {"name": ENCODERS[algorithm], "filters": filters}
    if algorithm in ("opn", "cpm"):
        spec["pooled"] = [True] * (4 if side >= 16 else 3)
    if algorithm == "cpm":
        spec["last_relu"] = False
    return spec


def check_origin(algorithm: str, preset: str | None, encoder_from: str | None, init_from: str | None) -> None:
    """Raise UsageError if the algorithm or the preset begins with a trained network and none is named."""
    if (preset or "").endswith("_pretrained") and not init_from:
        raise UsageError(f"--preset={preset} goes on from a run with --delay=1: give --init_from=WORKDIR")
    if not encoder_from and not init_from and (algorithm == "cnn_f_lstm" or preset == "table2_cnn_lstm"):
        raise UsageError(
            f"--algorithm={algorithm}: its encoder has been trained before (section 4.1); give "
            "--encoder_from=WORKDIR, a run of experiments.maml --backbone=conv_encoder"
        )


def pretrained_encoder(
    encoder_from: str | None, num_seeds: int
) -> tuple[str, Callable[[PyTree], PyTree]] | None:
    """Load the network of `--encoder_from`; return the flag, and a function that puts the network into fresh
    parameters. None without the flag.

    Raises UsageError for a workdir without such a network.
    """
    if not encoder_from:
        return None
    import jax
    import numpy as np

    flag = f"--encoder_from={encoder_from}"
    with usage_errors():
        _, state = jmeta.load(encoder_from)
    if "params" not in state.meta or "conv_0" not in state.meta["params"]:
        raise UsageError(
            f"{flag}: it learned no conv_encoder; give a run of experiments.maml --backbone=conv_encoder"
        )
    learned = {name: leaf for name, leaf in state.meta["params"].items() if name != "head"}
    if num_seeds > 1:
        learned = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], num_seeds, axis=0), learned)
    return flag, lambda meta: meta._replace(encoder=learned)


def published_row(settings: Settings) -> dict[str, Any] | None:
    """Name the row of Table 1, 2 or 3, None if the tasks or the network are not those of a row."""
    algorithm, delay = settings.algorithm, settings.delay
    network = {"way": 5, "presentations": 10, "filters": 64, "skip": "add"}
    network |= paper.online_few_shot_row(algorithm) | ({"inject": "first"} if delay > 1 else {})
    own = settings.take("way", "presentations", *ALGORITHMS[algorithm])
    data, size = {"omniglot": (paper.OMNIGLOT, 28), "cifar_fs": (paper.CIFAR_FS, 32)}.get(
        settings.dataset, ({}, None)
    )
    if (
        any(value != network.get(name, value) for name, value in own.items())
        or size is None
        or settings.image_size not in (None, size)
        or settings.split != data.get("split")
    ):
        return None
    variant = f"delay {delay}" + (", pre-trained" if settings.init_from else "") if delay > 1 else None
    if algorithm.startswith("cnn") and delay == 1:
        variant = "pre-trained" if settings.encoder_from else "not pre-trained"
    if algorithm == "cl_lstm" and delay == 1 and settings.inject != "first":
        variant = "labels to LSTM" if settings.inject == "lstm" else "labels to all"
    method = paper.PAPER_NAMES[algorithm]
    return {"dataset": settings.dataset, "method": method, "way": 5, "variant": variant, "paper": "cl_lstm"}


def published_row_of_preset(settings: Settings) -> dict[str, Any] | None:
    """Name the row of a preset that has not been run, as if it had the trained network that it needs."""
    preset, start = settings.preset or "", {}
    if preset.endswith("_pretrained"):
        start["init_from"] = "WORKDIR"
    if settings.algorithm == "cnn_f_lstm" or preset == "table2_cnn_lstm":
        start["encoder_from"] = "WORKDIR"
    return published_row(Settings({**settings, **start}))


FLAGS = flags.pick(
    "algorithm", *flags.DATA, "way", "presentations", "delay", "encoder_from", "hidden", "curriculum",
    "curriculum_every", "inject", "skip", "remat_every", "truncate_every", "standardize", "filters",
    "learning_rate_drops", "weight_decay", "learning_rate", "clip_norm", *flags.OUTER, *flags.RUNNING,
    choices={"algorithm": ALGORITHMS, "dataset": flags.without("dataset", "sinusoid", "features")},
    helps={
        "algorithm": "the memory",
        "hidden": "size of the LSTM",
        "filters": "channels of a layer of cl_lstm, or of the encoder",
    },
    defaults={"algorithm": "cl_lstm", "learning_rate": 0.001, "clip_norm": 1.0, "meta_batch": 16},
    when={
        "standardize": [flags.OnlyIf("encoder_from", (None, ""),
                                     "the encoder of --encoder_from saw images as they are")],
        "weight_decay": [flags.Unless("algorithm", ("cnn_f_lstm",), "it would move the frozen encoder")],
    },
)  # fmt: skip
EXPERIMENT = Experiment(
    "online_few_shot",
    __doc__ or "",
    FLAGS,
    main,
    paper.ONLINE_FEW_SHOT,
    ALGORITHMS,
    paper.online_few_shot_row,
    published_row_of_preset,
)

if __name__ == "__main__":
    launch(EXPERIMENT)
