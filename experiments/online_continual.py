"""Online continual few-shot learning: one class after another, one example at a time, then all are asked for.

Babu, Savarese & Maire, Online Meta-Learning via Learning with Layer-Distributed Memory, NeurIPS 2021,
section 4.3: CL+LSTM, which learns by its state, beside OML and ANML, which learn by gradients. A subtask is
one class; the classes of a task have different labels at random, of `--slots` that there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jmeta
from experiments import flags
from experiments.cli import launch
from experiments.errors import usage_errors
from experiments.presets import cl_lstm as paper
from experiments.settings import Experiment, Settings
from jmeta import registry

if TYPE_CHECKING:
    from experiments.runner import Run
    from jmeta.data.source import Sampler

_MEMORY = registry.entry("memory", "cl_lstm").settings
_READING = registry.entry("adapter", "from_memory").settings
_GRADIENTS = ("network", "inner_lr", "test_inner_optimizer", "test_inner_lr")
ALGORITHMS = {
    "cl_lstm": _MEMORY + _READING,
    "oml": registry.entry("adapter", "oml").settings + _GRADIENTS,
    "anml": registry.entry("adapter", "anml").settings + _GRADIENTS,
}
LOSS = {"name": "cross_entropy"}


def main(run: Run) -> int:
    """Train and test."""
    settings, algorithm, subtasks = run.settings, run.settings.algorithm, run.settings.subtasks
    own, side = settings.take(*ALGORITHMS[algorithm]), settings.image_size or 28
    adapter = describe_learner(algorithm, settings.slots, side, own)
    with usage_errors():
        source = run.dataset()
        spec = run.learner(
            run.standardized(adapter, source),
            LOSS,
            {"name": "accuracy_and_by_subtask", "subtasks": subtasks},
        )

        def tasks(split: str, length: int = subtasks) -> Sampler:
            query = settings.query if split == "train" else settings.test_query
            size = {"way": length, "shot": settings.subtask_shot, "query": query}
            episodes = source.episodes(split, **size, **run.variations(split))
            return jmeta.continual_few_shot(episodes, subtasks=length, slots=settings.slots)

        stages = run.curriculum(subtasks, "subtasks")
        samplers = {split: tasks(split) for split in ("train", "validation", "test")}
        curriculum = tuple((until, tasks("train", length)) for length, until in stages)
    return run.fit_episodes(
        spec, source, **samplers, curriculum=curriculum, published=published_row(settings)
    )


def describe_learner(algorithm: str, slots: int, side: int, own: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the adapter by the algorithm's `own` flags, for images of a `side`: CL+LSTM as a memory that
    reads the stream, OML and ANML with their inner rule."""
    if algorithm == "cl_lstm":
        memory, reading = ({name: own[name] for name in names} for names in (_MEMORY, _READING))
        return {"name": "from_memory", "memory": {"name": "cl_lstm", "way": slots, **memory}, **reading}
    spec = {
        "name": algorithm,
        "outputs": slots,
        "loss": LOSS,
        "rule": {"name": "sgd", "rate": own["inner_lr"]},
        **{name: value for name, value in own.items() if name not in _GRADIENTS},
        **describe_form(algorithm, own["network"], side),
    }
    if own["test_inner_optimizer"] or own["test_inner_lr"]:
        rate = own["test_inner_lr"] or own["inner_lr"]
        spec["test_rule"] = {"name": own["test_inner_optimizer"] or "sgd", "rate": rate}
    return spec


def describe_form(algorithm: str, network: str, side: int) -> dict[str, Any]:
    """Describe the convolutions of the form --network.

    ANML normalizes each image over its places, of which there must be more than one, so that it pools images
    smaller than 16x16 less.
    """
    published = network == "paper"
    if algorithm == "oml":
        return {"strides": [1, 1, 1, 2] if published else [2, 2, 2, 2], "padded": not published}
    three = [True, True, False]
    pooled = three if published or side < 16 else [True] * 4
    return {"pooled": pooled, "modulator_pooled": three, "padded": not published}


def published_row(settings: Settings) -> dict[str, Any] | None:
    """Name the row of Figure 4, whose numbers are from the paper's text; None if the tasks or the network are
    not those of the figure."""
    algorithm = settings.algorithm
    network = {"inject": "first", "skip": "add", "slots": paper.SLOTS} | paper.NETWORKS[algorithm]
    own = settings.take("slots", *ALGORITHMS[algorithm])
    same_images = settings.image_size in (None, 28) and settings.split == paper.OMNIGLOT["split"]
    if not same_images or any(value != network.get(name, value) for name, value in own.items()):
        return None
    method, shot = paper.PAPER_NAMES[algorithm], settings.subtask_shot
    return {"dataset": settings.dataset, "method": method, "way": settings.subtasks, "shot": shot,
            "paper": "cl_lstm"}  # fmt: skip


FLAGS = flags.pick(
    "algorithm", *flags.DATA, "subtasks", "subtask_shot", "slots", "query", "test_query", "curriculum",
    "curriculum_every", "inject", "skip", "standardize", "filters", "hidden", "modulator_filters", "network",
    "order", "inner_lr", "test_inner_optimizer", "test_inner_lr", "remat_every", "truncate_every",
    "learning_rate_drops", "weight_decay", "learning_rate", "clip_norm", *flags.OUTER, *flags.RUNNING,
    choices={"algorithm": ALGORITHMS, "dataset": flags.without("dataset", "sinusoid", "features")},
    helps={
        "algorithm": "the learner",
        "filters": "channels of a layer of cl_lstm, or of the network",
        "hidden": "size of cl_lstm's LSTM; width of oml's first dense layer",
        "order": "how the inner loop is differentiated [mixed for oml, first for anml]",
        "inner_lr": "inner learning rate [0.03 for oml, 0.1 for anml]",
    },
    defaults={"algorithm": "cl_lstm", "query": 5, "order": None, "inner_lr": None, "learning_rate": 0.001,
              "clip_norm": 1.0, "chunk": 8},
)  # fmt: skip
EXPERIMENT = Experiment(
    "online_continual",
    __doc__ or "",
    FLAGS,
    main,
    paper.ONLINE_CONTINUAL,
    ALGORITHMS,
    paper.online_continual_row,
    published_row,
)

if __name__ == "__main__":
    launch(EXPERIMENT)
