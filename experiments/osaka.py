"""OSAKA: online fast adaptation on a stream of Omniglot, MNIST and Fashion-MNIST, whose tasks switch unseen.

Caccia et al., NeurIPS 2020; sparse-C-MAML: von Oswald et al., Learning where to learn, NeurIPS 2021
(section 4.2). Every batch is predicted before its labels are used; what is reported is the mean accuracy over
the stream, in percent. Values that no flag gives are the published ones for the algorithm and --stay. Seeds,
and the points of a --grid, run one after another in one program, since meta-updates are heavy and rare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jmeta
from experiments import flags
from experiments.cli import launch
from experiments.errors import usage_errors
from experiments.presets import sparse_maml as paper
from experiments.settings import Experiment, Settings
from experiments.trials import Part, Trial, choose, compile_program, make_trials, map_trials, mean_over
from jmeta import registry

if TYPE_CHECKING:
    from experiments.runner import Run
    from jmeta.types import Array, PyTree

ALGORITHMS = {name: paper.osaka_flags(name) for name in registry.OSAKA}
DOMAINS = {"omniglot": 0.5, "mnist": 0.25, "fashion_mnist": 0.25}
_TUNABLE = ("learning_rate", "mask_learning_rate", "inner_lr", "threshold", "modulation", "deviation")
SPARSE = ("sparse_c_maml", "sparse_relu_c_maml")


def main(run: Run) -> int:
    """Pre-train if the algorithm does, learn the stream, and report the accuracy over it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments.pretraining import pretrain_trials  # these import jax
    from jmeta.data.streams import osaka as osaka_stream
    from jmeta.online.stream import stream_metrics

    settings, algorithm = run.settings, run.settings.algorithm
    every, steps, masked = settings.log_every, settings.steps, algorithm in SPARSE
    size = settings.take("way", "shot")
    own = registry.entry("osaka", algorithm).settings
    # A fixed rate of a differentiated inner loop is part of the program
    tunable = [n for n in _TUNABLE if n in own and (n != "inner_lr" or algorithm in paper.C_MAML)]
    trials = make_trials(tunable, run.experiment.flags, **settings.take("grid", "seed", "num_seeds"))

    # The method; that of a trial has its values of the grid
    spec = {"name": algorithm} | settings.take("way", "filters", *own)

    def make_method(values: Mapping[str, Any]) -> Any:
        fixed = {name: value for name, value in spec.items() if name not in values}
        return jmeta.build(fixed, "osaka", **values)

    # The programs of a trial
    def begin(trial: Trial) -> PyTree:
        x = jnp.zeros((settings.way * settings.shot, 28, 28, 1))
        return make_method(trial.values).online.init(jax.random.fold_in(trial.key, 0), x)

    def learn(
        data: PyTree, done: Array, count: Array, trial: Trial, state: PyTree
    ) -> tuple[PyTree, dict[str, Array], dict[str, Array]]:
        """Learn `count` batches, at most --log_every; also returns records [step] and the sparsity."""

        def observe(state: PyTree, step: Array) -> tuple[PyTree, dict[str, Array]]:
            batch, domain, switched = osaka_stream.shown_at(data, trial.stream, step, **size)
            key = jax.random.fold_in(jax.random.fold_in(trial.key, 1), step)
            state, info = make_method(trial.values).online.observe(state, batch, key)
            return state, info | {"domain": domain, "switched": switched}

        def body(index: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            state, new = observe(carry[0], done + index)
            return state, jax.tree.map(lambda values, value: values.at[index].set(value), carry[1], new)

        shapes = jax.eval_shape(observe, state, done)[1]
        records = jax.tree.map(lambda leaf: jnp.zeros(every, leaf.dtype), shapes)
        state, records = jax.lax.fori_loop(0, count, body, (state, records))
        return state, records, jmeta.sparsity_by_layer(state.slow.meta["rule"]) if masked else {}

    # Data, and a stream for every trial
    with usage_errors():
        sources = [run.dataset(name) for name in DOMAINS]
        omniglot = osaka_stream.concatenate_classes(list(sources[0].splits.values()))
        characters = osaka_stream.invert_images(omniglot)
        articles = [source.splits["train"] for source in sources[1:]]
        data = osaka_stream.domains([characters, *articles], list(DOMAINS.values()))
        osaka_stream.require_classes(data, settings.way)
        length = {"steps": steps, "stay": settings.stay}
        drawn = trials.draw(lambda key: osaka_stream.timeline(jax.random.fold_in(key, 2), **length))
        states = jax.jit(map_trials(begin, shared=0, sequential=True))(drawn)
    run.begin_stream(steps, *sources)

    # The pre-training, and the stream
    pretrained = None
    if algorithm in paper.PRETRAINED and settings.pretrain is not False:
        pretrained = pretrain_trials(run, trials, make_method, characters)
        states = states._replace(slow=pretrained.slow)
    program = jax.jit(map_trials(learn, shared=3, sequential=True), donate_argnums=4)
    first = jnp.int32(0), jnp.int32(0)
    learn_part, compile_seconds = compile_program(program, data, *first, drawn, states)

    def advance(states: PyTree, snapshots: PyTree, done: int) -> Part:
        count = min(every - done % every, steps - done)
        states, records, sparsity = learn_part(data, jnp.int32(done), jnp.int32(count), drawn, states)
        records = {name: np.asarray(values)[:, :count] for name, values in records.items()}
        means = {name: values.mean(1) for name, values in records.items() if name != "domain"}
        return Part(states, snapshots, done + count, means | sparsity, {}, records)

    stream = run.fit_stream(advance, states, (), steps, trials)

    # The accuracy over the stream
    records = stream.records  # [trial, step]
    summaries = [
        stream_metrics({name: values[trial] for name, values in records.items()}, tuple(DOMAINS))
        for trial in range(len(trials.seeds))
    ]
    best = choose(trials, summaries, "cumulative_accuracy")
    learned = pretrained.numbers(best.index) if pretrained else {}
    if masked:
        learned |= mean_over(best.trials, jmeta.sparsity_by_layer, stream.states.slow.meta["rule"])
    all_points = {"accuracy_of_grid": trials.by_point(records["accuracy"])} if settings.grid else {}
    return run.report_stream(
        stream,
        best,
        {**{name: values[best.trials] for name, values in records.items()}, **all_points},
        compile_seconds=compile_seconds,
        evaluation={"split": "stream", "tasks": stream.done, "norm": "batch", "backbone": "conv4"},
        domains=tuple(DOMAINS),
        dataset=f"osaka_stay{100 * settings.stay:g}",
        learned=learned,
        published=published_row(settings),
    )


def published_row(settings: Settings) -> dict[str, Any] | None:
    """Name the row of Table 6: a whole stream of the published size; None if the paper has none.

    The rows of C-MAML are those with all its ingredients.
    """
    if settings.take(*paper.STREAM_SIZE) != paper.STREAM_SIZE or settings.stay not in paper.STAYS:
        return None
    whole = settings.pretrain and settings.prolonged and math.isfinite(settings.threshold or math.inf)
    if settings.algorithm in paper.C_MAML and not whole:
        return None
    dataset, method = f"osaka_{paper.STAYS[settings.stay]}", paper.PAPER_NAMES.get(settings.algorithm)
    return {"dataset": dataset, "method": method, "backbone": "conv4", "way": 10, "shot": 5}


EXPERIMENT = Experiment(
    "osaka",
    __doc__ or "",
    flags.pick(
        "algorithm", "stay", "data_dir", "download", "way", "shot", "query", "steps", "filters",
        "learning_rate", "inner_lr", "inner_steps", "order", "learn_rates", "mask_learning_rate", "threshold",
        "modulation", "prolonged", "restart", "deviation", "samples", "mask_initial", "mask_penalty",
        "pretrain", "shared_pretraining", "pretrain_steps", "meta_batch", "patience", "validation_tasks",
        "grid", "seed", "num_seeds", "log_every", "checkpoint_every", "max_minutes", "workdir", "preset",
        choices={"algorithm": ALGORITHMS},
        helps={
            "way": "classes of a batch",
            "shot": "images of a class in a batch",
            "steps": "batches of the stream",
            "filters": "channels of conv4",
            "inner_lr": "inner learning rate, at first if it is learned",
            "samples": "draws of the weights at a batch",
            "pretrain": f"{', '.join(paper.C_MAML)}: meta-train on 900 classes of Omniglot first",
            "validation_tasks": "tasks of its validations [100 times --meta_batch]",
            "grid": "points to run, as learning_rate=0.001:0.0001,threshold=1:2; the point with the best "
            "accuracy is reported first, and all of them under grid",
            "seed": "seed of weights, stream and noise",
            "num_seeds": "seeds to run, --seed and those after it",
            "log_every": "batches between lines of metrics.jsonl",
            "checkpoint_every": "batches between checkpoints",
        },
        defaults={"algorithm": "c_maml", "log_every": 100, "checkpoint_every": 500, **paper.STREAM_SIZE}
        | dict.fromkeys(("query", "learning_rate", "inner_lr", "inner_steps", "order", "learn_rates",
                         "meta_batch", "validation_tasks")),
        when={
            "query": flags.FLAGS["patience"].when,
            "pretrain": (flags.Unless("algorithm", paper.ALWAYS_PRETRAINED, "{} always does"),
                         flags.OnlyIf("algorithm", paper.PRETRAINED, "{} never does")),
        },
    ),
    main,
    paper.OSAKA,
    ALGORITHMS,
    paper.osaka_row,
    published_row,
    headings={"Outer loop": "Stream and pre-training", "Online learning": "The stream's method and grid"},
)  # fmt: skip

if __name__ == "__main__":
    launch(EXPERIMENT)
