"""Continual learning on MNIST rotations and permutations: La-MAML, sparse-La-MAML and their baselines.

von Oswald et al., Learning where to learn, NeurIPS 2021 (section 4.1); Gupta et al., La-MAML, NeurIPS 2020.
The stream is seen in one pass (or --passes), then every task's whole test set is classified with the
parameters after each task. Values that no flag gives are the published ones for
the algorithm and the stream. Seeds, and the points of a --grid, run side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jmeta
from experiments import flags
from experiments.cli import launch
from experiments.errors import UsageError, usage_errors
from experiments.presets import sparse_maml as paper
from experiments.settings import Experiment, Settings
from experiments.trials import Part, Trial, choose, compile_program, make_trials, map_trials, mean_over
from jmeta import registry

if TYPE_CHECKING:
    from experiments.runner import Run
    from jmeta.types import Array, Key, PyTree

ALGORITHMS = {name: registry.entry("online", name).settings for name in paper.CONTINUAL_ALGORITHMS}
_TUNABLE = ("learning_rate", "initial_rate", "rate_learning_rate", "inner_rate", "rate", "mask_learning_rate",
           "initial_score", "margin", "within", "across")  # fmt: skip
LEARNS_RATES = ("la_maml", "la_maml_sync", "sparse_la_maml")


def main(run: Run) -> int:
    """Learn the stream task by task, then test on all tasks with the parameters after each."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jmeta.online import sgd_state  # which import jax
    from jmeta.online import stream as online_stream
    from jmeta.outer.progress import announce

    settings, algorithm, own = run.settings, run.settings.algorithm, ALGORITHMS[run.settings.algorithm]
    if settings.samples % settings.batch:
        raise UsageError(
            f"--batch={settings.batch} does not divide --samples={settings.samples}; give a --batch that does"
        )
    per_pass = settings.samples // settings.batch
    per_task = settings.passes * per_pass
    steps = settings.tasks * per_task

    # Data, and a stream for every trial
    tunable = [name for name in _TUNABLE if name in own]
    trials = make_trials(tunable, run.experiment.flags, **settings.take("grid", "seed", "num_seeds"))
    with usage_errors():
        source = run.dataset(settings.images)
        images = jmeta.pixel_rows(source.splits["train"], source.splits["test"])
        examples, pixels = images.train_x.shape
        size = settings.take("samples", "batch", "passes")

        def draw_stream(key: Key) -> PyTree:
            shared = settings.transform_seed
            map_key = jax.random.fold_in(key if shared is None else jax.random.key(shared), 1)
            draw_maps = jmeta.rotations if settings.dataset == paper.ROTATIONS else jmeta.permutations
            maps = draw_maps(map_key, tasks=settings.tasks, pixels=pixels)
            return jmeta.task_stream(jax.random.fold_in(key, 2), maps, examples, **size)

        drawn = trials.draw(draw_stream)

    # The learner
    model = jmeta.mlp(widths=(settings.hidden,) * 2, outputs=10, initialize=settings.initialize)
    fixed = {name: settings[name] for name in own if name not in trials.values}
    if algorithm in ("gem", "agem"):
        fixed["tasks"] = settings.tasks
    objects = {"model": model, "loss": jmeta.cross_entropy, **dense_forms(algorithm)}
    sequential = len(trials.seeds) == 1 or algorithm in online_stream.SEQUENTIAL

    def learner(trial: Trial) -> Any:
        return jmeta.build({"name": algorithm, **fixed}, "online", **objects, **trial.values)

    def begin(images: PyTree, trial: Trial) -> tuple[PyTree, PyTree]:
        """Initialize the state, and make room for a snapshot after each task."""
        state = jmeta.initial_state(learner(trial), images, trial.stream, trial.key)
        snapshot = sgd_state.without_memory(state)
        return state, jax.tree.map(
            lambda leaf: jnp.zeros((settings.tasks, *leaf.shape), leaf.dtype), snapshot
        )

    def learn(
        images: PyTree, task: Array, step: Array, trial: Trial, state: PyTree, snapshots: PyTree
    ) -> tuple[PyTree, PyTree, dict[str, Array]]:
        """Learn a pass over a task from its batch `step` on."""
        key, steps = jax.random.fold_in(trial.key, 1), step + jnp.arange(per_pass, dtype=jnp.int32)
        state, info = jmeta.observe_task(learner(trial), images, trial.stream, state, task, key, steps=steps)
        now = sgd_state.without_memory(state)
        snapshots = jax.tree.map(lambda tasks, leaf: tasks.at[task].set(leaf), snapshots, now)
        sparsity = jmeta.sparsity_by_layer(state.learned) if algorithm in LEARNS_RATES else {}
        return state, snapshots, {name: value.mean() for name, value in info.items()} | sparsity

    def test(images: PyTree, last: Array, trial: Trial, snapshots: PyTree) -> Array:
        """Compute the accuracy matrix [after, on] up to the `last` task that was learned."""
        part = {"part": settings.matrix, "last": last}
        return jmeta.accuracy_matrix(learner(trial), snapshots, images, trial.stream, **part)

    # The stream
    with usage_errors():
        program = map_trials(begin, shared=1, sequential=sequential)
        states, snapshots = jax.jit(program)(images, drawn)
    run.begin_stream(steps, source)
    program = jax.jit(map_trials(learn, shared=3, sequential=sequential), donate_argnums=(4, 5))
    first = jnp.int32(0), jnp.int32(0)
    learn_pass, compile_seconds = compile_program(program, images, *first, drawn, states, snapshots)

    def advance(states: PyTree, snapshots: PyTree, done: int) -> Part:
        place = map(jnp.int32, divmod(done, per_task))
        states, snapshots, means = learn_pass(images, *place, drawn, states, snapshots)
        done += per_pass
        return Part(states, snapshots, done, means, {"tasks_seen": done / per_task})

    stream = run.fit_stream(advance, states, snapshots, steps, trials, least=per_task)

    # The test
    tasks = stream.done // per_task
    announce(f"testing the networks after each task on all of {tasks} tasks")
    inputs = images, jnp.int32(tasks - 1), drawn, stream.snapshots
    program, _ = compile_program(jax.jit(map_trials(test, shared=2, sequential=True)), *inputs)
    start_time = time.monotonic()
    matrices = np.asarray(program(*inputs), np.float64)
    seconds = time.monotonic() - start_time
    matrices = matrices[:, :tasks, :tasks]  # [trial, after, on]
    best = choose(trials, [jmeta.continual_metrics(matrix) for matrix in matrices], "retained_accuracy")
    learns = algorithm in LEARNS_RATES
    all_points = {"accuracy_matrix_of_grid": trials.by_point(matrices)} if settings.grid else {}
    return run.report_stream(
        stream,
        best,
        {"accuracy_matrix": matrices[best.trials], **all_points},
        compile_seconds=compile_seconds,
        evaluation={
            "split": "test",
            "tasks": tasks,
            "norm": None,
            "backbone": "mlp",
            "seconds": round(seconds, 3),
        },
        learned=mean_over(best.trials, jmeta.sparsity_by_layer, stream.states.learned) if learns else {},
        published=published_row(settings),
    )


def dense_forms(algorithm: str) -> dict[str, Callable[..., Any]]:
    """List the arguments that make an algorithm fast for a network whose first layer is dense."""
    from jmeta.models.mlp import after_first_layer
    from jmeta.online import dense  # which imports jax

    after = after_first_layer, jmeta.cross_entropy
    if "glances" in ALGORITHMS[algorithm]:
        return {"ahead": dense.dense_look_ahead(*after)}
    if algorithm == "mer":
        return {"one_by_one": dense.dense_steps(*after)}
    return {"past": dense.dense_past_gradients(*after)} if algorithm == "gem" else {}


def published_row(settings: Settings) -> dict[str, Any] | None:
    """Name the row of Table 5: its problem in one pass, on MNIST; None if the paper has none."""
    usual = {"images": "mnist", "passes": 1, "hidden": 100} | paper.PROBLEMS[settings.dataset]
    del usual["matrix"]
    method = paper.PAPER_NAMES.get(settings.algorithm)
    if method is None or any(settings[name] != value for name, value in usual.items()):
        return None
    return {"dataset": settings.dataset, "method": method, "backbone": "mlp"}


EXPERIMENT = Experiment(
    "continual",
    __doc__ or "",
    flags.pick(
        "algorithm", "dataset", "images", "data_dir", "download", "tasks", "samples", "passes", "batch",
        "transform_seed", "hidden", "initialize", "learning_rate", "initial_rate", "rate_learning_rate",
        "inner_rate", "rate", "mask_learning_rate", "initial_score", "glances", "meta_loss", "clip_norm",
        "capacity", "replay", "slots", "margin", "within", "across", "replay_batches", "grid", "matrix",
        "seed", "num_seeds", "checkpoint_every", "max_minutes", "workdir", "preset",
        choices={"algorithm": ALGORITHMS, "dataset": paper.PROBLEMS},
        helps={
            "dataset": "the stream",
            "batch": "images of a step",
            "hidden": "units of each of the two hidden layers",
            "learning_rate": "learning rate of the weights",
            "clip_norm": "largest global norm of a gradient",
            "slots": "examples kept of each task",
            "seed": "seed of weights, samples, orders and replay",
            "num_seeds": "seeds run side by side, --seed and those after it",
            "checkpoint_every": "batches between checkpoints, up to the end of a task",
            "grid": "points to run side by side, as rate=0.03:0.1,mask_learning_rate=0.1:0.3:1; the point "
            "with the best retained accuracy is reported first, and all of them under grid",
        },
        defaults={"algorithm": "la_maml", "dataset": paper.ROTATIONS, "hidden": 100, "learning_rate": None,
                  "slots": None},
    ),
    main,
    paper.CONTINUAL,
    ALGORITHMS,
    paper.continual_row,
    published_row,
    headings={"Outer loop": "Learning", "Online learning": "Stream and method"},
)  # fmt: skip

if __name__ == "__main__":
    launch(EXPERIMENT)
