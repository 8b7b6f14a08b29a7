"""The flow problem of one task: check its arguments, take out its padding, turn its failures into NaN."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.inner.flow.reduced import targets
from jmeta.types import Array


class Problem(NamedTuple):
    """The flow of one task.

    `w0` [way, feature]; `features` [shot, feature]; `target` [shot, way], the weighted labels; `ridge` [];
    `horizon` [].
    """

    w0: Array
    features: Array
    target: Array
    ridge: Array
    horizon: Array


def make_problem(
    caller: str,
    w0: Array,
    features: Array,
    labels: Array,
    horizon: Array | float,
    ridge: Array | float,
    mask: Array | None,
    way_mask: Array | None,
) -> Problem:
    """Make the problem in float32 or wider, with padded examples (`mask` [shot] 0) set to zero.

    Raises ValueError, in the name of `caller`, for shapes that do not fit, and for a horizon or ridge that is
    known to be negative or not finite when the call is traced.
    """
    _check_shapes(caller, w0, features, labels, mask, way_mask)
    for name, value in (("horizon", horizon), ("ridge", ridge)):
        _check_scalar(caller, name, value)
    dtype = jnp.promote_types(jnp.result_type(w0, features), jnp.float32)
    w0, features, labels = (jnp.asarray(a, dtype) for a in (w0, features, labels))
    if mask is not None:
        features = jnp.where(mask[:, None] > 0, features, 0)
    target = targets(labels, mask, way_mask)
    return Problem(w0, features, target, jnp.asarray(ridge, dtype), jnp.asarray(horizon, dtype))


def solve_valid(
    solve: Callable[[Problem], tuple[Array, Array, Array]], problem: Problem
) -> tuple[Array, Array, Array]:
    """Call `solve(problem)`, which returns (w [way, feature], steps [], ok []), and mark failures by NaN.

    If the problem is not finite, its horizon or ridge is negative, or it was not solved, w and every gradient
    are NaN.
    """
    finite = functools.reduce(jnp.logical_and, (jnp.isfinite(leaf).all() for leaf in problem))
    valid = finite & (problem.horizon >= 0) & (problem.ridge >= 0)
    # A task that cannot be solved must not keep its batch waiting.
    w, steps, ok = solve(jax.tree.map(lambda leaf: jnp.where(valid, leaf, 0), problem))
    ok &= valid & jnp.isfinite(w).all()
    gate = jnp.where(ok, jnp.ones((), w.dtype), jnp.nan)
    everything = sum(leaf.sum() for leaf in problem)
    return w * gate + (gate - 1) * everything, steps, ok


def _check_shapes(
    caller: str, w0: Array, features: Array, labels: Array, mask: Array | None, way_mask: Array | None
) -> None:
    shapes = jnp.shape(w0), jnp.shape(features), jnp.shape(labels)
    if [len(shape) for shape in shapes] != [2, 2, 2]:
        raise ValueError(
            f"{caller}: expected w0 [way, feature], features [shot, feature] and labels [shot, way], got "
            f"shapes {shapes}; integer labels go through jax.nn.one_hot, a batch of tasks through jax.vmap"
        )
    (way, feature), shot = shapes[0], shapes[1][0]
    for name, shape, expected in (
        ("features [shot, feature]", shapes[1], (shot, feature)),
        ("labels [shot, way]", shapes[2], (shot, way)),
        ("mask [shot]", None if mask is None else jnp.shape(mask), (shot,)),
        ("way_mask [way]", None if way_mask is None else jnp.shape(way_mask), (way,)),
    ):
        if shape is not None and shape != expected:
            raise ValueError(
                f"{caller}: {name} of shape {shape} do not fit w0 [way, feature] {shapes[0]} and features "
                f"{shapes[1]}; expected {expected}"
            )
    for name, array in (("w0", w0), ("features", features)):
        if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
            raise ValueError(
                f"{caller}: {name} of type {jnp.result_type(array)}; give floating-point numbers"
            )


def _check_scalar(caller: str, name: str, value: Array | float) -> None:
    if jnp.shape(value) != ():
        raise ValueError(
            f"{caller}: {name} must be a scalar, got shape {jnp.shape(value)}; map over tasks with jax.vmap"
        )
    if not isinstance(value, jax.core.Tracer) and not 0 <= float(value) < math.inf:
        raise ValueError(
            f"{caller}: {name}={value} must be finite and not negative; for the limit of an infinite horizon "
            "use jmeta.gradient_flow_limit with a ridge"
        )
