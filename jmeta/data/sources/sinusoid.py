"""Sine waves to regress on: each task is y = A sin(x - phase) with an amplitude and a phase of its own."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.data.source import SPLITS, Dataset, DatasetInfo, Sampler, check_split
from jmeta.data.sources.authors import LICENSES
from jmeta.types import Batch, Key, Task

Range = tuple[float, float]


class _WaveDraw(NamedTuple):
    """The static part of the sampler: equal settings compare equal, so that jit compiles them once."""

    shot: int
    query: int
    amplitude: Range
    phase: Range
    x: Range

    def __call__(self, key: Key) -> Task:
        unit = jax.random.uniform(key, (2 + self.shot + self.query,), jnp.float32)
        amplitude, phase = _within(self.amplitude, unit[0]), _within(self.phase, unit[1])
        x = _within(self.x, unit[2:])[:, None]
        y = amplitude * jnp.sin(x - phase)
        return Task(Batch(x[: self.shot], y[: self.shot]), Batch(x[self.shot :], y[self.shot :]))


def _within(bounds: Range, unit: jax.Array) -> jax.Array:
    """Map 0..1 onto `bounds`."""
    return bounds[0] + (bounds[1] - bounds[0]) * unit


def sinusoids(
    *,
    shot: int,
    query: int,
    amplitude: Range = (0.1, 5.0),
    phase: Range = (0.0, math.pi),
    x: Range = (-5.0, 5.0),
) -> Sampler:
    """Make the sampler of sine-wave regressions of Finn et al. (2017, section 5.1).

    `sampler(key) -> Task` with support x, y [shot, 1] and query x, y [query, 1], float32, without noise:
    y = A sin(x - phase), with A, phase (radians) and each x uniform in their ranges. Huisman et al.
    (2022) write A sin(x + p), p in 0..pi: phase=(-math.pi, 0.0). Raises ValueError for a shot or query below
    1 and for a range that is not (low, high).
    """
    for name, number in {"shot": shot, "query": query}.items():
        if number < 1:
            raise ValueError(f"sinusoids: {name} is {number}; expected at least 1")
    for name, bounds in {"amplitude": amplitude, "phase": phase, "x": x}.items():
        if len(bounds) != 2 or not bounds[0] <= bounds[1]:
            raise ValueError(f"sinusoids: {name} is {bounds}; expected (low, high)")
    return jax.tree_util.Partial(_WaveDraw(shot, query, amplitude, phase, x))


def sinusoid_dataset() -> Dataset:
    """Make the data set of sine waves; every split draws from the one distribution.

    `episodes(split, shot=, query=)` takes the options of `sinusoids`.
    """
    info = DatasetInfo(
        name="sinusoid",
        license=LICENSES["sinusoid"],
        split="procedural: each split is the whole distribution, with task keys of its own",
        classes={},
        shape=(1,),
        notes=("y = A sin(x - phase), A in 0.1..5, phase in 0..pi, x in -5..5 (Finn et al. 2017)",),
    )
    return Dataset(info, _episodes)


def _episodes(split: str, **options: Any) -> Sampler:
    check_split(split, SPLITS)
    return sinusoids(**options)
