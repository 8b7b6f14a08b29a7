"""A run on OSAKA's stream: pre-training where the algorithm has one, the stream, and its accuracy."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import streaming
from experiments.common import default_workdir, identity, usage_errors, write_json
from experiments.osaka import points_of, published_row
from experiments.osaka_learners import SPARSE, at_point, make_learner
from experiments.osaka_pretraining import pretrain_all, pretrained_lanes
from experiments.streaming import Chosen, Ended, Part
from experiments.tasks import open_dataset
from experiments.workdir import make_workdir, say
from jmeta.data import osaka
from jmeta.data.source import Dataset
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.loop import Outcome
from jmeta.report import continual_figures
from jmeta.rules.masks import sparsity_by_layer
from jmeta.types import Array, Key, LearnerState, Online, PyTree

NAME = "osaka"
DOMAINS = {"omniglot": 0.5, "mnist": 0.25, "fashion_mnist": 0.25}


class Lane(NamedTuple):
    """One run among several; leaves have a leading axis [lane].

    `values`: the settings of its point of the grid; `key` of weights and noise; its `line` of tasks.
    """

    values: dict[str, Array]
    key: Key
    line: osaka.Timeline


class Programs(NamedTuple):
    """What is compiled. Everything but data and numbers of batches has a leading axis [lane].

    `begin(lanes) -> states`; `advance(data, lanes, states, done, count) -> (states, records, report)` learns
    `count` batches, at most --log_every; `records` {name: [lane, step]}, `report` {name: [lane]}.
    """

    begin: Callable[..., PyTree]
    advance: Callable[..., tuple[PyTree, dict[str, Array], dict[str, Array]]]


def run(settings: SimpleNamespace) -> int:
    """Run to results.json, or as far as the time or a signal lets it; the exit status."""
    deadline = streaming.deadline(settings)
    workdir, identified = default_workdir(NAME, settings), identity(NAME, settings)
    with usage_errors():
        make_workdir(workdir)
        if streaming.finished_before(workdir, identified, settings.steps):
            return 0
        sources = open_sources(settings)
        characters = osaka.inverted(osaka.together(list(sources[0].splits.values())))
        articles = [source.splits["train"] for source in sources[1:]]
        data = osaka.domains([characters, *articles], list(DOMAINS.values()))
        osaka.require_classes(data, settings.way)
        points = points_of(settings)
        lanes = make_lanes(settings, points)
        programs = make_programs(settings)
        states = programs.begin(lanes)
    with contextlib.closing(Checkpoints(workdir / "checkpoints", identified)) as checkpoints:
        checkpoints.check_identity()
        facts = streaming.config(settings, identified, settings.steps, *sources)
        write_json(workdir / "config.json", facts)
        outcomes = pretrain_all(settings, points, characters, identified, workdir, deadline)
        stopped = [outcome for outcome in outcomes if outcome.reason in ("time", "signal")]
        if stopped:
            say(f"stopped while pre-training; the same command goes on from {workdir}")
            return 128 + stopped[0].signal if stopped[0].signal else 0
        if outcomes:
            states = states._replace(slow=pretrained_lanes(settings, outcomes, points))
        ended, seconds = _stream(settings, programs, data, lanes, states, checkpoints, workdir, deadline)
    status = streaming.interrupted(ended, workdir)
    if status is not None:
        return status
    return _finish(settings, points, outcomes, ended, seconds, workdir)


def open_sources(settings: SimpleNamespace) -> list[Dataset]:
    """The data sets of the stream's domains."""
    return [open_dataset(settings, name) for name in DOMAINS]


def make_lanes(settings: SimpleNamespace, points: Sequence[Mapping[str, float]]) -> Lane:
    """A lane for each seed of each point of the grid, seeds varying fastest."""

    def lane(seed: Array) -> tuple[Key, osaka.Timeline]:
        key = jax.random.key(seed)
        line = osaka.timeline(jax.random.fold_in(key, 2), steps=settings.steps, stay=settings.stay)
        return jax.random.fold_in(key, 3), line

    seeds, values = streaming.lane_seeds(settings, points), streaming.lane_values(settings, points)
    return Lane(values, *jax.jit(lambda seeds: jax.lax.map(lane, seeds))(seeds))


def make_programs(settings: SimpleNamespace) -> Programs:
    """The programs of a run; lanes take turns, since meta-updates are heavy, rare, and not at the same batch
    in every lane."""
    over_lanes = functools.partial(streaming.over_lanes, in_turn=True)
    size = {"way": settings.way, "shot": settings.shot}

    def learner(lane: Lane) -> Online:
        return make_learner(at_point(settings, lane.values))

    def begin(lanes: Lane) -> PyTree:
        x = jnp.zeros((settings.way * settings.shot, 28, 28, 1))
        return over_lanes(lambda lane: learner(lane).init(jax.random.fold_in(lane.key, 0), x), lanes)

    def advance(
        data: osaka.Domains, lanes: Lane, states: PyTree, done: Array, count: Array
    ) -> tuple[PyTree, dict[str, Array], dict[str, Array]]:
        def observe(lane: Lane, state: PyTree, step: Array) -> tuple[PyTree, dict[str, Array]]:
            shown = osaka.shown_at(data, lane.line, step, **size)
            key = jax.random.fold_in(jax.random.fold_in(lane.key, 1), step)
            untold = {"task": jnp.zeros((), jnp.int32), "first_pass": jnp.ones((), bool)}
            state, info = learner(lane).observe(state, shown.batch, key=key, **untold)
            return state, info | {"domain": shown.domain, "switched": shown.switched}

        def one(lane: Lane, state: PyTree) -> tuple[PyTree, dict[str, Array], dict[str, Array]]:
            def body(index: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
                state, records = carry
                state, new = observe(lane, state, done + index)
                return state, jax.tree.map(lambda held, value: held.at[index].set(value), records, new)

            shapes = jax.eval_shape(observe, lane, state, done)[1]
            records = jax.tree.map(lambda leaf: jnp.zeros(settings.log_every, leaf.dtype), shapes)
            state, records = jax.lax.fori_loop(0, count, body, (state, records))
            masks = settings.algorithm in SPARSE
            return state, records, sparsity_by_layer(state.slow.meta["rule"]) if masks else {}

        return over_lanes(one, lanes, states)

    return Programs(jax.jit(begin), jax.jit(advance, donate_argnums=2))


def _stream(
    settings: SimpleNamespace,
    programs: Programs,
    data: osaka.Domains,
    lanes: Lane,
    states: PyTree,
    checkpoints: Checkpoints,
    workdir: Path,
    deadline: float,
) -> tuple[Ended, float]:
    """Learn what is left of the stream; also the seconds that compiling took."""
    program, seconds = streaming.compiled(programs.advance, data, lanes, states, jnp.int32(0), jnp.int32(0))

    def advance(states: PyTree, kept: PyTree, done: int) -> Part:
        count = min(settings.log_every - done % settings.log_every, settings.steps - done)
        states, records, report = program(data, lanes, states, jnp.int32(done), jnp.int32(count))
        records = {name: np.asarray(values)[:, :count] for name, values in records.items()}
        means = {name: values.mean(1) for name, values in records.items() if name != "domain"}
        return Part(states, kept, done + count, means | report, {}, records)

    ended = streaming.learn_stream(
        settings, advance, states, (), settings.steps, checkpoints, workdir, deadline
    )
    return ended, seconds


def summary(records: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of one lane's records [step]: cumulative accuracy in percent, overall and by domain, the mean loss, and
    how well switches are noticed where they are looked for."""
    found = {"cumulative_accuracy": 100 * float(records["accuracy"].mean())}
    for index, name in enumerate(DOMAINS):
        shown = records["domain"] == index
        if shown.any():
            found[f"cumulative_accuracy_{name}"] = 100 * float(records["accuracy"][shown].mean())
    found["loss"] = float(records["loss"].mean())
    if "detected" in records:
        right = float((records["detected"] * records["switched"]).sum())
        found["detection_precision"] = right / max(float(records["detected"].sum()), 1.0)
        found["detection_recall"] = right / max(float(records["switched"].sum()) - 1, 1.0)
    return found


def _finish(
    settings: SimpleNamespace,
    points: Sequence[Mapping[str, float]],
    outcomes: Sequence[Outcome],
    ended: Ended,
    compile_seconds: float,
    workdir: Path,
) -> int:
    """Results and figures."""
    shape = (len(points), settings.num_seeds, ended.done)
    records = {name: values.reshape(shape) for name, values in ended.records.items()}
    summaries = [
        [summary({name: values[point, seed] for name, values in records.items()}) for seed in range(shape[1])]
        for point in range(shape[0])
    ]
    chosen = streaming.choose(points, summaries, "cumulative_accuracy")
    results = streaming.results(
        NAME,
        settings,
        ended,
        compile_seconds,
        chosen,
        {"split": "stream", "tasks": ended.done, "norm": "batch"},
        dataset=f"osaka_stay{100 * settings.stay:g}",
        way=settings.way,
        shot=settings.shot,
        learned=read_learned(settings, ended.state, outcomes, chosen),
        published=published_row(settings),
    )
    mine = {name: values[chosen.index] for name, values in records.items()}
    whole = {"accuracy_of_grid": records["accuracy"]} if settings.grid else {}

    def draw(folder: Path) -> None:
        continual_figures.accuracy_over_stream(
            mine["accuracy"], mine["domain"], list(DOMAINS), folder / "accuracy.png"
        )

    return streaming.conclude(workdir, results, mine | whole, chosen.lanes, draw)


def read_learned(
    settings: SimpleNamespace, state: LearnerState, outcomes: Sequence[Outcome], chosen: Chosen
) -> dict[str, float]:
    """Of the best point: what pre-training reached (the mean over seeds), and the masks' sparsity at last."""
    found: dict[str, float] = {}
    if outcomes and (reached := outcomes[chosen.index].best):
        found["pretraining_steps"] = float(outcomes[chosen.index].step)
        found["pretraining_accuracy"] = float(np.mean(reached["metrics"]["accuracy"]))
    if settings.algorithm in SPARSE:
        rule = jax.tree.map(lambda leaf: leaf[chosen.lanes], state.meta.slow.meta["rule"])
        by_lane = jax.jit(jax.vmap(sparsity_by_layer))(rule)
        found |= {name: float(value.mean()) for name, value in by_lane.items()}
    return found


if __name__ == "__main__":
    sys.exit("this is the skeleton; run python -m experiments.osaka")
