"""Integration of an autonomous flow dy/dt = field(args, y), y(0) = y0, up to a horizon.

Both integrators are differentiable in `args` and the horizon, exactly for the discretized flow, by going
back over checkpointed steps: nothing is recomputed backwards in time, a direction in which a gradient flow is
unstable.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from jmeta.inner.flow.reduced import rate_bound
from jmeta.inner.flow.stability import Probe, StableSteps
from jmeta.types import Array, PyTree

Field = Callable[[PyTree, PyTree], PyTree]


class Solution(NamedTuple):
    """The end of a flow.

    `state`; the solver's `steps` [] int32; `ok` [] bool, true if it reached the horizon; and `slope`, the
    derivative of `state` in the horizon.
    """

    state: PyTree
    steps: Array
    ok: Array
    slope: PyTree


Integrate = Callable[[Field, Probe, PyTree, PyTree, Array], Solution]  # field, probe, y0, args, horizon


def adaptive(
    field: Field,
    probe: Probe,
    y0: PyTree,
    args: PyTree,
    horizon: Array,
    *,
    stages: tuple[tuple[diffrax.AbstractSolver, int], ...],
    rtol: float,
    atol: float,
) -> Solution:
    """Integrate with adaptive steps.

    Each solver of `stages` (solver, step bound) goes on from the end of the one before it; `probe` returns
    the reduced flow and the probabilities at a state. Time is rescaled to [0, 1], which makes the horizon []
    an ordinary argument of the field, differentiable at 0 too. The steps themselves are constants of the
    differentiation.
    """
    one = jnp.ones((), horizon.dtype)
    first = jax.lax.stop_gradient(1 / jnp.maximum(horizon * rate_bound(probe(args, y0)[0]), 1))
    time, y, steps, done = jnp.zeros_like(one), y0, jnp.zeros((), jnp.int32), jnp.asarray(False)
    control: diffrax.AbstractStepSizeController
    for solver, max_steps in stages:
        control = diffrax.PIDController(rtol=rtol, atol=atol)
        if isinstance(solver, diffrax.AbstractERK):
            control = StableSteps(control, probe)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, a: jax.tree.map(lambda v: a[0] * v, field(a[1], y))),
            solver,
            t0=time,
            t1=one,
            dt0=first,
            y0=y,
            args=(horizon, args),
            stepsize_controller=control,
            max_steps=max_steps,
            throw=False,
        )
        time = jax.lax.stop_gradient(solution.ts[0])
        y = jax.tree.map(lambda leaf: leaf[0], solution.ys)
        steps += solution.stats["num_steps"].astype(jnp.int32)
        done = solution.result == diffrax.RESULTS.successful
    return Solution(y, steps, done, field(args, y))


def euler(
    field: Field, y0: PyTree, args: PyTree, horizon: Array, *, step_size: float, max_steps: int
) -> Solution:
    """Integrate by explicit Euler in `horizon / step_size` steps of `step_size`.

    If that is not a whole number the last step is shorter (a ratio within rounding of a whole number is taken
    as one). The derivative in the horizon is the last step's slope, also at a whole number of steps. Memory
    is that of 2 sqrt(max_steps) states.
    """
    ratio = horizon / step_size
    whole = jnp.round(ratio)
    near = jnp.abs(ratio - whole) <= 4 * jnp.finfo(ratio.dtype).eps * whole
    ratio = ratio + jax.lax.stop_gradient(jnp.where(near, whole - ratio, 0))
    full = jnp.maximum(jnp.ceil(jax.lax.stop_gradient(ratio)), 1) - 1
    ok = full < max_steps
    count = jnp.where(ok, full, 0).astype(jnp.int32)
    y = _full_steps(field, step_size, math.isqrt(max_steps - 1) + 1, y0, args, count)
    slope = field(args, y)
    y = jax.tree.map(lambda a, v: a + (ratio - full) * step_size * v, y, slope)
    return Solution(y, count + 1, ok, slope)


def _segment(field: Field, step_size: float, length: int, args: PyTree) -> Callable:
    """Return `(y, left) -> (y, (states, real))`, which takes `length` steps.

    The first `left` [] steps are real, `real` [step]; `states` are those before each step.
    """

    def step(y: PyTree, real: Array) -> tuple[PyTree, tuple[PyTree, Array]]:
        return _step(field, step_size, real, y, args), (y, real)

    return lambda y, left: jax.lax.scan(step, y, jnp.arange(length, dtype=left.dtype) < left)


def _step(field: Field, step_size: float, real: Array, y: PyTree, args: PyTree) -> PyTree:
    return jax.tree.map(lambda a, v: a + jnp.where(real, step_size, 0) * v, y, field(args, y))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _full_steps(
    field: Field, step_size: float, length: int, y0: PyTree, args: PyTree, count: Array
) -> PyTree:
    """Take `count` [] steps from `y0`, in segments of `length`."""
    segment = _segment(field, step_size, length, args)
    return jax.lax.while_loop(
        lambda carry: carry[1] > 0, lambda carry: (segment(*carry)[0], carry[1] - length), (y0, count)
    )[0]


def _full_steps_forward(
    field: Field, step_size: float, length: int, y0: PyTree, args: PyTree, count: Array
) -> tuple[PyTree, tuple]:
    segment = _segment(field, step_size, length, args)

    def body(carry: tuple) -> tuple:
        i, y, starts = carry
        starts = jax.tree.map(lambda buffer, leaf: buffer.at[i].set(leaf), starts, y)
        return i + 1, segment(y, count - i * length)[0], starts

    starts = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), y0)
    _, y, starts = jax.lax.while_loop(
        lambda carry: carry[0] * length < count, body, (jnp.zeros_like(count), y0, starts)
    )
    return y, (starts, args, count)


def _full_steps_backward(
    field: Field, step_size: float, length: int, residuals: tuple, y_bar: PyTree
) -> tuple[PyTree, PyTree, None]:
    starts, args, count = residuals
    segment = _segment(field, step_size, length, args)

    def step_back(bars: tuple, at: tuple) -> tuple[tuple, None]:
        y_bar, args_bar = bars
        y, real = at
        _, pullback = jax.vjp(functools.partial(_step, field, step_size, real), y, args)
        y_bar, more = pullback(y_bar)
        return (y_bar, jax.tree.map(jnp.add, args_bar, more)), None

    def body(carry: tuple) -> tuple:
        i, bars = carry
        _, steps = segment(jax.tree.map(lambda buffer: buffer[i], starts), count - i * length)
        return i - 1, jax.lax.scan(step_back, bars, steps, reverse=True)[0]

    bars = y_bar, jax.tree.map(jnp.zeros_like, args)
    segments = (count + length - 1) // length
    _, bars = jax.lax.while_loop(lambda carry: carry[0] >= 0, body, (segments - 1, bars))
    return (*bars, None)


_full_steps.defvjp(_full_steps_forward, _full_steps_backward)
