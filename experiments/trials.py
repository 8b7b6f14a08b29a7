"""Trials: every seed at every point of --grid, learned side by side or one after another in one program.

Nothing here imports jax before it computes, so that an entry point can import it at the top.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.errors import UsageError
from experiments.flags import Flag, number, range_error
from jmeta.report.units import unit_of

if TYPE_CHECKING:
    from jmeta.types import Array, Key, PyTree

Point = Mapping[str, float]
_Summary = Mapping[str, float]


class Trial(NamedTuple):
    """One trial, or all of them with a leading axis [trial] on every leaf.

    `values`: its settings from the grid; `key` of its weights and noise; its `stream`.
    """

    values: dict[str, Array]
    key: Key
    stream: PyTree


class Trials(NamedTuple):
    """The trials of a run, seeds varying fastest: the `points` of the grid, the `seeds` [trial], and the
    settings that the grid varies, `values` {name: [trial]}."""

    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    values: dict[str, tuple[float, ...]]

    def draw(self, stream: Callable[[Key], PyTree]) -> Trial:
        """Draw the key and the stream of every trial, [trial, ...]; `stream(key)` may fold 1 and 2 into the
        key of the seed, as 3 is the trial's own."""
        import jax
        import jax.numpy as jnp

        from jmeta.outer.progress import announce

        announce("drawing the streams and initializing the networks (compiles)")

        def draw(seed: Array) -> tuple[Key, PyTree]:
            key = jax.random.key(seed)
            return jax.random.fold_in(key, 3), stream(key)

        keys, streams = jax.jit(lambda seeds: jax.lax.map(draw, seeds))(jnp.asarray(self.seeds))
        values = {name: jnp.asarray(values, jnp.float32) for name, values in self.values.items()}
        return Trial(values, keys, streams)

    def by_point(self, values: Any) -> Any:
        """Reshape an array [trial, ...] to [point, seed, ...]."""
        return values.reshape(len(self.points), -1, *values.shape[1:])


class Part(NamedTuple):
    """A part of a stream, after which `done` batches have been learned.

    `states` of the learners and `snapshots` of earlier ones, both [trial, ...]; `means` {name: [trial]} over
    the part, of which `loss` must be there, and `fields`, numbers that are no means, for a line of the log;
    `records` {name: [trial, step]} of every step, for the results.
    """

    states: PyTree
    snapshots: PyTree
    done: int
    means: Mapping[str, Array]
    fields: Mapping[str, float] = {}
    records: Mapping[str, Array] = {}


class Best(NamedTuple):
    """The best point of a grid: its `index`, its `trials`, its `metrics` over seeds and those of each of its
    `seeds`; and the metrics of every point, `grid`."""

    index: int
    trials: slice
    metrics: dict[str, dict[str, float | None]]
    seeds: dict[str, list[float | None]]
    grid: list[dict[str, Any]]


def make_trials(
    tunable: Sequence[str], flags: Mapping[str, Flag], *, grid: str, seed: int, num_seeds: int
) -> Trials:
    """Make the trials of --seed, --num_seeds and --grid, which may vary the `tunable` flags.

    Raises UsageError for a grid that cannot be read, or a number that is out of its flag's range.
    """
    points = parse_grid(grid, tunable)
    for name, value in (item for point in points for item in point.items()):
        error = range_error(name, flags[name], value)
        if error:
            raise UsageError(error)
    repeated = [(point, seed + index) for point in points for index in range(num_seeds)]
    values = {name: tuple(point[name] for point, _ in repeated) for name in points[0]}
    return Trials(tuple(points), tuple(seed for _, seed in repeated), values)


def parse_grid(text: str, tunable: Sequence[str]) -> list[dict[str, float]]:
    """Read --grid: "a=1:2,b=3:4" as the four points of the two lists, "" as [{}].

    Raises UsageError for a text that is no such list, or a flag that is not `tunable`.
    """
    axes: dict[str, list[float]] = {}
    for part in filter(None, text.split(",")):
        name, _, values = part.partition("=")
        if name not in tunable or name in axes:
            raise UsageError(
                f"--grid={text}: {name!r}; expected once each of {', '.join(map(repr, tunable))}"
            )
        try:
            axes[name] = [number(value) for value in values.split(":")]
        except ValueError:
            raise UsageError(f"--grid={text}; expected name=number:number, ...") from None
    return [dict(zip(axes, point)) for point in itertools.product(*axes.values())]


def map_trials(function: Callable[..., PyTree], *, shared: int, sequential: bool) -> Callable[..., PyTree]:
    """Turn a function of one trial into a function of all trials.

    Args:
      function: of a trial.
      shared: number of its first arguments that are the same for all trials; the others and the result have a
        leading axis [trial].
      sequential: take one trial after another, instead of all at once.
    """
    import jax

    def program(*arguments: PyTree) -> PyTree:
        one = functools.partial(function, *arguments[:shared])
        if sequential:
            return jax.lax.map(lambda inputs: one(*inputs), arguments[shared:])
        return jax.vmap(one)(*arguments[shared:])

    return program


def compile_program(program: Any, *arguments: PyTree) -> tuple[Callable[..., Any], float]:
    """Compile a jitted program for these arguments; returns it and the seconds that took."""
    from jmeta.outer.progress import announce  # which imports jax

    announce("compiling (about a minute the first time)")
    start_time = time.monotonic()
    compiled = program.lower(*arguments).compile()
    return compiled, time.monotonic() - start_time


def mean_over(
    trials: slice, function: Callable[[PyTree], dict[str, Array]], tree: PyTree
) -> dict[str, float]:
    """Compute the mean over some trials of the numbers that `function` computes of each, from leaves [trial,
    ...]."""
    import jax

    by_trial = jax.jit(jax.vmap(function))(jax.tree.map(lambda leaf: leaf[trials], tree))
    return {name: float(values.mean()) for name, values in by_trial.items()}


def choose(trials: Trials, summaries: Sequence[_Summary], metric: str) -> Best:
    """Choose the point whose mean `metric` is highest, from summaries [trial]."""
    import numpy as np

    count = len(trials.seeds) // len(trials.points)
    places = [slice(start, start + count) for start in range(0, len(trials.seeds), count)]
    by_point = [over_seeds(summaries[place]) for place in places]
    best = int(np.argmax([metrics[metric]["mean"] for metrics in by_point]))
    chosen = summaries[places[best]]
    seeds = {name: [seed.get(name) for seed in chosen] for name in chosen[0]}
    grid = [
        {"values": point, "metrics": metrics, "chosen": index == best}
        for index, (point, metrics) in enumerate(zip(trials.points, by_point))
    ]
    return Best(best, places[best], by_point[best], seeds, grid)


def over_seeds(summaries: Sequence[_Summary]) -> dict[str, dict[str, float | None]]:
    """Compute mean, deviation and 95 % interval over seeds of each number that all of the seeds have."""
    import numpy as np

    from jmeta.metrics import summarize  # which imports jax

    statistics = {}
    for name in [name for name in summaries[0] if all(name in summary for summary in summaries)]:
        values = np.asarray([summary[name] for summary in summaries])
        several = len(values) > 1
        statistics[name] = {
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)) if several else None,
            "ci95": summarize(values, over="seeds").ci95 if several else None,
            "unit": unit_of(name),
        }
    return statistics
