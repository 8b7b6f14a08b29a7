"""A continual run: the stream task by task, with a checkpoint to go on from, then the accuracy matrices."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import streaming
from experiments.common import default_workdir, identity, usage_errors, write_json
from experiments.continual import learner_settings, points_of, published_row
from experiments.streaming import Chosen, Ended, Part
from experiments.tasks import open_dataset
from experiments.workdir import make_workdir
from jmeta.data import streams
from jmeta.losses import cross_entropy
from jmeta.models.mlp import after_first_layer, mlp
from jmeta.online import play
from jmeta.online.catalog import ONE_AFTER_ANOTHER, build
from jmeta.online.dense import dense_look_ahead, dense_past_gradients, dense_steps
from jmeta.online.state import without_memory
from jmeta.outer.checkpoint import Checkpoints
from jmeta.report import continual_figures
from jmeta.rules.masks import sparsity_by_layer
from jmeta.types import Array, Key, LearnerState, Online, PyTree

NAME = "continual"
LEARNS_RATES = ("la_maml", "la_maml_sync", "sparse_la_maml")


class Lane(NamedTuple):
    """One run among those side by side; leaves have a leading axis [lane].

    `values`: the settings of its point of the grid; `key` of weights and replay; its `stream`.
    """

    values: dict[str, Array]
    key: Key
    stream: streams.TaskStream


class Programs(NamedTuple):
    """What is compiled. Everything but images and indices has a leading axis [lane].

    `begin(images, lanes) -> states`; `advance(images, lanes, states, kept, task, step) -> (states, kept,
    report)` learns one pass over a task from its batch `step` on, where `kept` [lane, task, ...] holds what
    prediction needs after each task and `report` {name: [lane]} the means over the pass;
    `matrices(images, lanes, kept, last) -> [lane, after, on]`, up to the last task that was learned.
    """

    begin: Callable[..., PyTree]
    advance: Callable[..., tuple[PyTree, PyTree, dict[str, Array]]]
    matrices: Callable[..., Array]


def run(settings: SimpleNamespace) -> int:
    """Run to results.json, or as far as the time or a signal lets it; the exit status."""
    workdir, identified = default_workdir(NAME, settings), identity(NAME, settings)
    deadline = streaming.deadline(settings)
    per_task = settings.passes * batches_of_pass(settings)
    steps = settings.tasks * per_task
    with usage_errors():
        make_workdir(workdir)
        if streaming.finished_before(workdir, identified, steps):
            return 0
        source = open_dataset(settings, settings.images)
        images = streams.images(source.splits["train"], source.splits["test"])
        points = points_of(settings)
        lanes = make_lanes(settings, points, images)
        programs = make_programs(settings, len(points) * settings.num_seeds)
        states = programs.begin(images, lanes)
    with contextlib.closing(Checkpoints(workdir / "checkpoints", identified)) as checkpoints:
        checkpoints.check_identity()
        write_json(workdir / "config.json", streaming.config(settings, identified, steps, source))
        ended, compile_seconds = _stream(
            settings, programs, images, lanes, states, checkpoints, workdir, deadline
        )
    status = streaming.interrupted(ended, workdir, least=per_task)
    if status is not None:
        return status
    return _finish(settings, programs, images, lanes, points, ended, compile_seconds, workdir)


def batches_of_pass(settings: SimpleNamespace) -> int:
    """Batches of one pass over a task."""
    return settings.samples // settings.batch


def make_lanes(settings: SimpleNamespace, points: list[dict[str, float]], images: streams.Images) -> Lane:
    """A lane for each seed of each point of the grid, seeds varying fastest."""
    seeds, values = streaming.lane_seeds(settings, points), streaming.lane_values(settings, points)
    pixels = images.train_x.shape[1]
    draw = streams.rotations if settings.dataset == "mnist_rotations" else streams.permutations

    def lane(seed: Array) -> tuple[Key, streams.TaskStream]:
        key = jax.random.key(seed)
        shared = None if settings.transform_seed is None else jax.random.key(settings.transform_seed)
        maps = draw(
            jax.random.fold_in(key if shared is None else shared, 1), tasks=settings.tasks, pixels=pixels
        )
        stream = streams.task_stream(
            jax.random.fold_in(key, 2),
            maps,
            images.train_y.shape[0],
            samples=settings.samples,
            batch=settings.batch,
            passes=settings.passes,
        )
        return jax.random.fold_in(key, 3), stream

    key, stream = jax.jit(lambda seeds: jax.lax.map(lane, seeds))(seeds)
    return Lane(values, key, stream)


def make_programs(settings: SimpleNamespace, lanes: int) -> Programs:
    """The programs of a run of so many lanes."""
    widths = (settings.hidden, settings.hidden)
    model = mlp(widths=widths, outputs=10, initialise=settings.initialise)
    fixed = learner_settings(settings)
    if "glances" in fixed:
        fixed["ahead"] = dense_look_ahead(after_first_layer, cross_entropy)
    if settings.algorithm == "mer":
        fixed["one_by_one"] = dense_steps(after_first_layer, cross_entropy)
    if settings.algorithm == "gem":
        fixed["past"] = dense_past_gradients(after_first_layer, cross_entropy)

    def learner(lane: Lane) -> Online:
        return build(settings.algorithm, model, cross_entropy, **fixed | lane.values)

    over_lanes = functools.partial(
        streaming.over_lanes, in_turn=lanes == 1 or settings.algorithm in ONE_AFTER_ANOTHER
    )

    def begin(images: streams.Images, lanes: Lane) -> PyTree:
        return over_lanes(lambda lane: play.initial(learner(lane), images, lane.stream, lane.key), lanes)

    def advance(
        images: streams.Images, lanes: Lane, states: PyTree, kept: PyTree, task: Array, step: Array
    ) -> tuple[PyTree, PyTree, dict[str, Array]]:
        def one(lane: Lane, state: PyTree, kept: PyTree) -> tuple:
            key = jax.random.fold_in(lane.key, 1)
            steps = step + jnp.arange(batches_of_pass(settings), dtype=jnp.int32)
            state, info = play.play_task(learner(lane), images, lane.stream, state, task, key, steps=steps)
            kept = jax.tree.map(lambda so_far, now: so_far.at[task].set(now), kept, without_memory(state))
            report = {name: value.mean() for name, value in info.items()}
            if settings.algorithm in LEARNS_RATES:
                report |= sparsity_by_layer(state.learned)
            return state, kept, report

        return over_lanes(one, lanes, states, kept)

    def matrices(images: streams.Images, lanes: Lane, kept: PyTree, last: Array) -> Array:
        def one(lane: Lane, kept: PyTree) -> Array:
            part = {"part": settings.matrix, "last": last}
            return play.accuracy_matrix(learner(lane), kept, images, lane.stream, **part)

        return jax.lax.map(lambda inputs: one(*inputs), (lanes, kept))

    return Programs(jax.jit(begin), jax.jit(advance, donate_argnums=(2, 3)), jax.jit(matrices))


def _stream(
    settings: SimpleNamespace,
    programs: Programs,
    images: streams.Images,
    lanes: Lane,
    states: PyTree,
    checkpoints: Checkpoints,
    workdir: Path,
    deadline: float,
) -> tuple[Ended, float]:
    """Learn the tasks that are left, pass by pass; also the seconds that compiling took."""
    per_pass = batches_of_pass(settings)
    per_task = settings.passes * per_pass
    kept = jax.tree.map(
        lambda leaf: jnp.zeros((leaf.shape[0], settings.tasks, *leaf.shape[1:]), leaf.dtype),
        without_memory(states),
    )
    first = jnp.int32(0), jnp.int32(0)
    program, compile_seconds = streaming.compiled(programs.advance, images, lanes, states, kept, *first)

    def advance(states: PyTree, kept: PyTree, done: int) -> Part:
        place = map(jnp.int32, divmod(done, per_task))
        states, kept, report = program(images, lanes, states, kept, *place)
        done += per_pass
        return Part(states, kept, done, report, {"tasks_seen": done / per_task})

    steps = settings.tasks * per_task
    ended = streaming.learn_stream(settings, advance, states, kept, steps, checkpoints, workdir, deadline)
    return ended, compile_seconds


def _finish(
    settings: SimpleNamespace,
    programs: Programs,
    images: streams.Images,
    lanes: Lane,
    points: list[dict[str, float]],
    ended: Ended,
    compile_seconds: float,
    workdir: Path,
) -> int:
    """The accuracy matrices, results and figures."""
    tasks = ended.done // (settings.passes * batches_of_pass(settings))
    kept, last = ended.state.model_state, jnp.int32(tasks - 1)
    program, _ = streaming.compiled(programs.matrices, images, lanes, kept, last)
    begun = time.monotonic()
    matrices = 100 * np.asarray(program(images, lanes, kept, last), np.float64)
    seconds = time.monotonic() - begun
    matrices = matrices[:, :tasks, :tasks].reshape(len(points), settings.num_seeds, tasks, -1)
    summaries = [[play.summary(matrix) for matrix in of_seeds] for of_seeds in matrices]
    chosen = streaming.choose(points, summaries, "retained_accuracy")
    results = streaming.results(
        NAME,
        settings,
        ended,
        compile_seconds,
        chosen,
        {"split": "test", "tasks": tasks, "norm": None, "seconds": round(seconds, 3)},
        dataset=settings.dataset,
        learned=read_learned(settings, ended.state, chosen),
        published=published_row(settings),
    )
    arrays = {"accuracy_matrix": matrices[chosen.index]}
    arrays |= {"accuracy_matrix_of_grid": matrices} if settings.grid else {}

    def draw(folder: Path) -> None:
        continual_figures.accuracy_matrix(arrays["accuracy_matrix"].mean(0), folder / "accuracy_matrix.png")

    return streaming.conclude(workdir, results, arrays, chosen.lanes, draw)


def read_learned(settings: SimpleNamespace, state: LearnerState, chosen: Chosen) -> dict[str, float]:
    """The sparsity of each layer at the end, of the chosen point the mean over seeds; nothing where no rates
    are learned."""
    if settings.algorithm not in LEARNS_RATES:
        return {}
    learned = jax.tree.map(lambda leaf: leaf[chosen.lanes], state.meta.learned)
    by_lane = jax.jit(jax.vmap(sparsity_by_layer))(learned)
    return {name: float(value.mean()) for name, value in by_lane.items()}


if __name__ == "__main__":
    sys.exit("this is the skeleton; run python -m experiments.continual")
