"""The gradient flow's limit for an infinite horizon, and its derivative by the implicit function theorem."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jmeta.inner.flow.problem import Problem, make_problem, solve_valid
from jmeta.inner.flow.reduced import Reduced, position, reduce, shifted_solve, velocity
from jmeta.types import Array


def gradient_flow_limit(
    w0: Array,
    features: Array,
    labels: Array,
    *,
    ridge: Array | float,
    mask: Array | None = None,
    way_mask: Array | None = None,
    max_steps: int = 256,
) -> Array:
    """Find the classifier W* that `gradient_flow` tends to as its horizon grows, by Newton's method.

    W* is the minimum of the mean cross-entropy plus `ridge/2 ||W - W0||^2`. Source: COMLN (Deleu et al.
    2022), App. D (the proximal term); the implicit derivative as in iMAML, but in the space of the examples
    and without approximation: `[ridge I + A G] ds` is solved directly.

    Args:
      w0: initial classifier [way, feature].
      features: embedded support examples [shot, feature].
      labels: one-hot or soft labels [shot, way].
      ridge: strength [] of the proximal term, > 0.
      mask: [shot], 0 for padded examples, which take no part.
      way_mask: [way], false for absent ways, which keep their row of `w0`.
      max_steps: bound of Newton's steps.

    Returns:
      W* [way, feature], once differentiable (in reverse) in `w0`, `features`, `labels` and `ridge`. NaN, in
      the value and in every gradient, if Newton's method did not converge, an input is not finite or the
      ridge is not positive.

    Raises:
      ValueError: for shapes that do not fit, and for a ridge known to be 0 or less when the call is traced.
    """
    if not isinstance(ridge, jax.core.Tracer) and jnp.shape(ridge) == () and not float(ridge) > 0:
        raise ValueError(
            f"gradient_flow_limit: ridge={ridge} must be positive; without the proximal term the limit does "
            "not depend on w0 or does not exist: give a ridge, or use gradient_flow with a finite horizon"
        )
    problem = make_problem("gradient_flow_limit", w0, features, labels, 0.0, ridge, mask, way_mask)

    def solve(problem: Problem) -> tuple[Array, Array, Array]:
        w0, features, target, ridge, _ = problem
        s, steps, ok = _equilibrium(max_steps, reduce(w0, features, target, ridge, way_mask))
        return w0 - s.T @ features, steps, ok & (ridge > 0)

    return solve_valid(solve, problem)[0].astype(jnp.result_type(w0, features))


def _newton_step(flow: Reduced, s: Array) -> Array:
    _, p = position(flow, s)
    return shifted_solve(flow, p, flow.ridge, jnp.ones_like(flow.ridge))(velocity(flow, s))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _equilibrium(max_steps: int, flow: Reduced) -> tuple[Array, Array, Array]:
    """Find the `s` [shot, way] at rest, with the number of Newton steps and True if they converged.

    A step is damped by log(1 + r)/r, r the largest change it makes between two logits of an example: enough
    for descent from any start, as the loss is self-concordant in the generalized sense (F. Bach 2010).
    """
    tolerance = jnp.sqrt(jnp.finfo(flow.gram.dtype).eps)  # squared by the step that meets it

    def body(carry: tuple) -> tuple:
        s, steps, _ = carry
        step = _newton_step(flow, s)
        reach = jnp.ptp(flow.gram @ step, axis=-1).max()
        damping = jnp.where(reach > 0, jnp.log1p(reach) / jnp.where(reach > 0, reach, 1), 1)
        return s + damping * step, steps + 1, jnp.abs(step).max() <= tolerance * jnp.abs(s).max()

    def unfinished(carry: tuple) -> Array:
        return ~carry[2] & (carry[1] < max_steps)

    start = jnp.zeros_like(flow.target), jnp.zeros((), jnp.int32), ~(flow.ridge > 0)
    return jax.lax.while_loop(unfinished, body, start)


def _forward(max_steps: int, flow: Reduced) -> tuple[tuple[Array, Array, Array], tuple[Reduced, Array]]:
    solution = _equilibrium(max_steps, flow)
    return solution, (flow, solution[0])


def _backward(max_steps: int, residuals: tuple[Reduced, Array], bars: tuple) -> tuple[Reduced]:
    flow, s = residuals
    _, p = position(flow, s)
    solve = shifted_solve(flow, p, flow.ridge, jnp.ones_like(flow.ridge))
    (influence,) = jax.linear_transpose(solve, s)(bars[0])
    return jax.vjp(lambda flow: velocity(flow, s), flow)[1](influence)


_equilibrium.defvjp(_forward, _backward)
