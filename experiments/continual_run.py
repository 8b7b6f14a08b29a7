"""A continual run: the stream task by task, with a checkpoint to go on from, then the accuracy matrices."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import run as skeleton
from experiments.common import default_workdir, identity, write_json
from experiments.continual import learner_settings, parse_grid, published_row
from jmeta.data import streams
from jmeta.data.catalog import dataset
from jmeta.data.source import Dataset
from jmeta.losses import cross_entropy
from jmeta.models.mlp import after_first_layer, mlp
from jmeta.online import play
from jmeta.online.catalog import ONE_AFTER_ANOTHER, build
from jmeta.online.dense import dense_look_ahead
from jmeta.online.state import without_memory
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.finite import NonFiniteError
from jmeta.outer.metrics_log import MetricsLog, read_metrics
from jmeta.outer.signals import stop_on_signals
from jmeta.report import continual_figures, figures
from jmeta.rules.masks import sparsity
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

    `begin(images, lanes) -> states`; `advance(images, lanes, states, kept, task) -> (states, kept, report)`,
    where `kept` [lane, task, ...] holds what prediction needs after each task and `report` {name: [lane]} the
    means over the task; `matrices(images, lanes, kept) -> [lane, after, on]`.
    """

    begin: Callable[..., PyTree]
    advance: Callable[..., tuple[PyTree, PyTree, dict[str, Array]]]
    matrices: Callable[..., Array]


class Ended(NamedTuple):
    """Where the stream ended: `tasks` done, `seconds` of them in all parts of the run, `compile_seconds` of
    this part, and the number of the `signal` that stopped it."""

    state: LearnerState
    tasks: int
    seconds: float
    compile_seconds: float
    signal: int | None


def run(settings: SimpleNamespace) -> int:
    """Run to results.json, or as far as the time or a signal lets it; the exit status."""
    workdir, identified = default_workdir(NAME, settings), identity(NAME, settings)
    steps = settings.tasks * settings.passes * settings.samples // settings.batch
    with skeleton._usage_errors():
        workdir.mkdir(parents=True, exist_ok=True)
        finished = skeleton._finished(workdir, identified, steps)
        if finished:
            skeleton._say(f"finished before, in {workdir}")
            print(json.dumps(finished))
            return 0
        options = {
            name: getattr(settings, name) for name in ("data_dir", "download") if getattr(settings, name)
        }
        source = dataset(settings.images, **options)
        images = streams.images(source.splits["train"], source.splits["test"])
        points = parse_grid(settings.grid, settings.algorithm)
        lanes = make_lanes(settings, points, images)
        programs = make_programs(settings, len(points) * settings.num_seeds)
    with contextlib.closing(Checkpoints(workdir / "checkpoints", identified)) as checkpoints:
        checkpoints.check_identity()
        write_json(workdir / "config.json", _config(settings, identified, source))
        ended = _stream(settings, programs, images, lanes, checkpoints, workdir)
    if ended.signal:
        skeleton._say(f"stopped after task {ended.tasks}; the same command goes on from {workdir}")
        return 128 + ended.signal
    if not ended.tasks:
        skeleton._say(f"no task done in time; the same command goes on from {workdir}")
        return 0
    return _finish(settings, programs, images, lanes, points, ended, workdir)


def make_lanes(settings: SimpleNamespace, points: list[dict[str, float]], images: streams.Images) -> Lane:
    """A lane for each seed of each point of the grid, seeds varying fastest."""
    seeds = jnp.asarray([settings.seed + index for _ in points for index in range(settings.num_seeds)])
    values = {
        name: jnp.asarray([point[name] for point in points for _ in range(settings.num_seeds)], jnp.float32)
        for name in points[0]
    }
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
    in_turn = lanes == 1 or settings.algorithm in ONE_AFTER_ANOTHER

    def learner(lane: Lane) -> Online:
        return build(settings.algorithm, model, cross_entropy, **fixed | lane.values)

    def over_lanes(function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        if in_turn:
            return jax.lax.map(lambda inputs: function(*inputs), arguments)
        return jax.vmap(function)(*arguments)

    def begin(images: streams.Images, lanes: Lane) -> PyTree:
        return over_lanes(lambda lane: play.initial(learner(lane), images, lane.stream, lane.key), lanes)

    def advance(
        images: streams.Images, lanes: Lane, states: PyTree, kept: PyTree, task: Array
    ) -> tuple[PyTree, PyTree, dict[str, Array]]:
        def one(lane: Lane, state: PyTree, kept: PyTree) -> tuple:
            key = jax.random.fold_in(lane.key, 1)
            state, info = play.play_task(learner(lane), images, lane.stream, state, task, key)
            kept = jax.tree.map(lambda so_far, now: so_far.at[task].set(now), kept, without_memory(state))
            report = {name: value.mean() for name, value in info.items()}
            if settings.algorithm in LEARNS_RATES:
                report |= _sparsity_by_layer(state.learned)
            return state, kept, report

        return over_lanes(one, lanes, states, kept)

    def matrices(images: streams.Images, lanes: Lane, kept: PyTree) -> Array:
        def one(lane: Lane, kept: PyTree) -> Array:
            return play.accuracy_matrix(learner(lane), kept, images, lane.stream)

        return jax.lax.map(lambda inputs: one(*inputs), (lanes, kept))

    return Programs(jax.jit(begin), jax.jit(advance, donate_argnums=(2, 3)), jax.jit(matrices))


def _sparsity_by_layer(learned: PyTree) -> dict[str, Array]:
    """`sparsity/W1`, `sparsity/b1`, ... from the input on, and of all entries together, `sparsity`."""
    layers = [*sorted(name for name in learned if name != "head"), "head"]
    report = {}
    for number, layer in enumerate(layers, 1):
        report[f"sparsity/W{number}"] = sparsity(learned[layer]["kernel"])
        report[f"sparsity/b{number}"] = sparsity(learned[layer]["bias"])
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(learned)])
    return report | {"sparsity": sparsity(flat)}


def _stream(
    settings: SimpleNamespace,
    programs: Programs,
    images: streams.Images,
    lanes: Lane,
    checkpoints: Checkpoints,
    workdir: Path,
) -> Ended:
    """Learn the tasks that are left."""
    deadline = math.inf if settings.max_minutes is None else time.monotonic() + 60 * settings.max_minutes
    per_task = settings.passes * settings.samples // settings.batch
    states = programs.begin(images, lanes)
    kept = jax.tree.map(
        lambda leaf: jnp.zeros((leaf.shape[0], settings.tasks, *leaf.shape[1:]), leaf.dtype),
        without_memory(states),
    )
    begun = time.monotonic()
    advance = programs.advance.lower(images, lanes, states, kept, jnp.int32(0)).compile()
    compile_seconds = time.monotonic() - begun
    done, seconds, saved = 0, 0.0, None
    found = checkpoints.restore(_checkpoint(0, states, kept))
    if found is not None:
        _, restored, meta = found
        states, kept = restored.meta, restored.model_state
        done, seconds, saved = meta["tasks"], meta["seconds"], meta["tasks"]

    def save() -> None:
        checkpoints.save(done * per_task, _checkpoint(done * per_task, states, kept),
                         {"tasks": done, "seconds": seconds, "best": None})  # fmt: skip

    log = MetricsLog(workdir)
    with stop_on_signals() as stopped, contextlib.closing(log):
        log.start(done * per_task)
        while done < settings.tasks and not stopped() and time.monotonic() < deadline:
            begun = time.monotonic()
            states, kept, report = advance(images, lanes, states, kept, jnp.int32(done))
            report = jax.device_get(report)
            seconds += time.monotonic() - begun
            _check_finite(settings, report, done, saved)
            done += 1
            log.write(_line(done, per_task, report, seconds))
            skeleton._say(
                f"task {done}/{settings.tasks}  loss {np.nanmean(report['loss']):.4g}  {seconds:.1f} s"
            )
            if done * per_task % settings.checkpoint_every < per_task:
                save()
                saved = done
        signal = stopped()
        if saved != done and done:
            save()
            checkpoints.wait()
    state = _checkpoint(done * per_task, states, kept)
    return Ended(state, done, seconds, compile_seconds, signal if done < settings.tasks else None)


def _checkpoint(step: int, states: PyTree, kept: PyTree) -> LearnerState:
    return LearnerState(jnp.asarray(step, jnp.int32), states, kept, (), jax.random.key(0))


def _check_finite(
    settings: SimpleNamespace, report: dict[str, np.ndarray], task: int, saved: int | None
) -> None:
    """Raise where a loss is not finite; of a grid, only where none is left that is."""
    finite = np.isfinite(report["loss"])
    if finite.all() or (settings.grid and finite.any()):
        return
    back = (
        "there is no checkpoint before it" if not saved else f"the checkpoint after task {saved} is before it"
    )
    seed = settings.seed + int(np.argmin(finite)) % settings.num_seeds
    raise NonFiniteError(f"task {task}: the loss of seed {seed} is not finite; {back}; lower the rates")


def _line(done: int, per_task: int, report: dict[str, np.ndarray], seconds: float) -> dict[str, Any]:
    line: dict[str, Any] = {"step": done * per_task, "split": "train", "task": done - 1}
    for name, values in report.items():
        finite = values[np.isfinite(values)]
        line[name] = float(finite.mean()) if finite.size else None
        if values.size > 1:
            line[f"{name}_by_lane"] = [float(v) if math.isfinite(v) else None for v in values]
    return {name: value for name, value in line.items() if value is not None} | {"seconds": round(seconds, 3)}


def _finish(
    settings: SimpleNamespace,
    programs: Programs,
    images: streams.Images,
    lanes: Lane,
    points: list[dict[str, float]],
    ended: Ended,
    workdir: Path,
) -> int:
    """The accuracy matrices, results and figures."""
    program = programs.matrices.lower(images, lanes, ended.state.model_state).compile()
    begun = time.monotonic()
    matrices = 100 * np.asarray(program(images, lanes, ended.state.model_state), np.float64)
    seconds = time.monotonic() - begun
    matrices = matrices[:, : ended.tasks, : ended.tasks].reshape(
        len(points), settings.num_seeds, ended.tasks, -1
    )
    by_point = [_metrics(of_seeds) for of_seeds in matrices]
    best = int(np.argmax([metrics["retained_accuracy"]["mean"] for metrics in by_point]))
    results = _results(settings, ended, points, by_point, best, matrices[best], seconds)
    skeleton._write_arrays(
        workdir / "eval.npz",
        {"accuracy_matrix": matrices[best], "accuracy_matrix_of_grid": matrices} if settings.grid
        else {"accuracy_matrix": matrices[best]},
    )  # fmt: skip
    try:
        _write_figures(matrices[best].mean(0), workdir)
    except (OSError, ValueError, RuntimeError) as error:  # a figure must not cost a run its results
        skeleton._say(f"no figures: {error}")
    write_json(workdir / "results.json", results)
    skeleton._say(f"figures in {workdir / 'figures'}, results in {workdir / 'results.json'}")
    print(json.dumps(results))
    return 0


def _metrics(matrices: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Of [seed, after, on]: each metric's mean, deviation and 95 % interval over the seeds."""
    summaries = [play.summary(matrix) for matrix in matrices]
    found = {}
    for name in summaries[0]:
        values = np.asarray([summary[name] for summary in summaries])
        deviation = float(values.std(ddof=1)) if len(values) > 1 else None
        interval = None if deviation is None else 1.96 * deviation / len(values) ** 0.5
        found[name] = {"mean": float(values.mean()), "std": deviation, "ci95": interval}
    return found


def _results(
    settings: SimpleNamespace,
    ended: Ended,
    points: list[dict[str, float]],
    by_point: list[dict[str, Any]],
    best: int,
    matrices: np.ndarray,
    seconds: float,
) -> dict[str, Any]:
    step = ended.tasks * settings.passes * settings.samples // settings.batch
    seeds = [play.summary(matrix) for matrix in matrices]
    learned = read_learned(settings, ended.state)
    grid = [{"values": point, "metrics": metrics} for point, metrics in zip(points, by_point)]
    return {
        "experiment": NAME,
        "algorithm": settings.algorithm,
        "preset": settings.preset,
        "dataset": settings.dataset,
        "way": None,
        "shot": None,
        "seed": settings.seed,
        "steps": step,
        "train": {
            "seconds": round(ended.seconds, 3),
            "compile_seconds": round(ended.compile_seconds, 3),
            "tasks_per_second": round(ended.tasks * len(points) * settings.num_seeds / ended.seconds, 3)
            if ended.seconds
            else None,
        },
        "eval": {
            "split": "test",
            "tasks": ended.tasks,
            "norm": None,
            "metrics": by_point[best],
            "seeds": {name: [summary[name] for summary in seeds] for name in seeds[0]},
            "seconds": round(seconds, 3),
        },
        "learned": learned,
        "grid": grid if settings.grid else None,
        "published": published_row(settings),
    }


def read_learned(settings: SimpleNamespace, state: LearnerState) -> dict[str, float]:
    """The sparsity of each layer at the end, the mean over lanes; nothing where no rates are learned."""
    if settings.algorithm not in LEARNS_RATES:
        return {}
    by_lane = jax.jit(jax.vmap(_sparsity_by_layer))(state.meta.learned)
    return {name: float(value.mean()) for name, value in by_lane.items()}


def _config(settings: SimpleNamespace, identified: dict[str, Any], source: Dataset) -> dict[str, Any]:
    return {
        "flags": vars(settings),
        "identity": identified,
        "dataset": source.info._asdict(),
        "versions": skeleton._versions(),
        "device": {"platform": jax.default_backend(), "kind": jax.devices()[0].device_kind, "count": 1},
        "git_commit": skeleton._git_commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _write_figures(matrix: np.ndarray, workdir: Path) -> None:
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    records = read_metrics(workdir / "metrics.jsonl")
    figures.learning_curves(records, folder / "learning_curves.png")
    continual_figures.accuracy_matrix(matrix, folder / "accuracy_matrix.png")
    if any("sparsity" in record for record in records):
        continual_figures.sparsity_by_layer(records, folder / "sparsity.png")


if __name__ == "__main__":
    sys.exit("this is the skeleton; run python -m experiments.continual")
