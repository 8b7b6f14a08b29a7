"""Adaptation in continuous time: a linear classifier follows the gradient flow of its loss to a horizon.

`dW/dt = -grad L(W)`, `W(0) = W0`, with L the mean cross-entropy of the support examples plus
`ridge/2 ||W - W0||^2` (COMLN, section 3.1). Methods differ in how the meta-gradient is found:

- "adjoint": the flow in the space of its examples, and back over its checkpointed steps. The default.
- "forward": the paper's forward sensitivities (sections 4.1 and 4.2).
- "full": the flow of the weights themselves, differentiated; slow, the reference.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, Literal

import diffrax
import jax
import jax.numpy as jnp

from jmeta.inner.integrate import Field, Integrate, Solution, adaptive, euler
from jmeta.inner.problem import Problem, prepare, solve_valid
from jmeta.inner.reduced import Reduced, mask_ways, position, reduce, velocity
from jmeta.inner.rodas import Rodas
from jmeta.inner.sensitivity import forward_flow
from jmeta.inner.stability import Probe
from jmeta.types import Array, FlowInfo, PyTree

Method = Literal["adjoint", "forward", "full"]

EXPLICIT = {"tsit5": diffrax.Tsit5, "dopri5": diffrax.Dopri5}
STIFF = {"rodas": Rodas, "kvaerno5": diffrax.Kvaerno5}
SOLVERS = {
    "adjoint": ("auto", *EXPLICIT, *STIFF, "euler"),
    "forward": (*EXPLICIT, "euler"),
    "full": (*EXPLICIT, "euler"),
}


def gradient_flow(
    w0: Array,
    features: Array,
    labels: Array,
    horizon: Array | float,
    *,
    method: Method = "adjoint",
    solver: str | None = None,
    step_size: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    ridge: Array | float = 0.0,
    mask: Array | None = None,
    max_steps: int = 4096,
    way_mask: Array | None = None,
) -> Array:
    """The classifier W(T) that the gradient flow of its loss reaches from `w0` at the horizon T.

    Source: COMLN (Deleu et al. 2022), eq. 8;
    with `solver="euler"` ANIL's `horizon / step_size` gradient steps of
    size `step_size` (section 3.3), the last one shorter where that is no whole number.

    Args:
      w0: initial classifier [way, feature], without bias.
      features: embedded support examples [shot, feature].
      labels: one-hot or soft labels [shot, way].
      horizon: T [], in the flow's time (100 gradient steps of size 0.01 take T = 1).
      method: "adjoint", "forward" or "full", see the module. Differentiable in `w0`, `features` and
        `horizon`; "adjoint" and "full" also in `labels` and `ridge`.
      solver: "tsit5", "dopri5", "euler" (needs `step_size`); for the adjoint also the stiff "rodas" and
        "kvaerno5", and "auto", its default: tsit5 hands over to rodas after the few steps that an explicit
        solver needs unless the flow is stiff (soft labels or a ridge and a long horizon).
      step_size: of "euler".
      rtol, atol: tolerances of the adaptive solvers.
      ridge: strength [] of the proximal term.
      mask: [shot], 0 for padded examples, which take no part.
      max_steps: bound of the solver's steps; memory grows with its square root.
      way_mask: [way], false for absent ways, which take no part in the softmax and keep their row of `w0`.

    Returns:
      W(T) [way, feature] in the inputs' dtype. A flow that did not reach its horizon within `max_steps`, a
      negative horizon and inputs that are not finite give NaN, in the value and in every gradient.

    Raises:
      ValueError: for shapes, names or numbers that do not fit, and for a horizon known to be negative or not
        finite when the call is traced.
    """
    return gradient_flow_with_info(
        w0,
        features,
        labels,
        horizon,
        method=method,
        solver=solver,
        step_size=step_size,
        rtol=rtol,
        atol=atol,
        ridge=ridge,
        mask=mask,
        max_steps=max_steps,
        way_mask=way_mask,
    )[0]


def gradient_flow_with_info(
    w0: Array,
    features: Array,
    labels: Array,
    horizon: Array | float,
    *,
    method: Method = "adjoint",
    solver: str | None = None,
    step_size: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    ridge: Array | float = 0.0,
    mask: Array | None = None,
    max_steps: int = 4096,
    way_mask: Array | None = None,
) -> tuple[Array, FlowInfo]:
    """`gradient_flow`, and how it ended: FlowInfo(steps [] int32, ok [] bool). Same arguments and errors."""
    if max_steps < 1:
        raise ValueError(f"gradient_flow: max_steps={max_steps!r} must be at least 1")
    integrate = _integrator(method, solver, step_size, rtol, atol, max_steps)
    problem = prepare("gradient_flow", w0, features, labels, horizon, ridge, mask, way_mask)
    w, steps, ok = solve_valid(functools.partial(_METHODS[method], integrate, way_mask=way_mask), problem)
    return w.astype(jnp.result_type(w0, features)), FlowInfo(steps, ok)


def _adjoint(integrate: Integrate, problem: Problem, way_mask: Array | None) -> tuple[Array, Array, Array]:
    w0, features, target, ridge, horizon = problem
    flow = reduce(w0, features, target, ridge, way_mask)
    solution = integrate(velocity, position, jnp.zeros_like(target), flow, horizon)
    return w0 - solution.state.T @ features, solution.steps, solution.ok


def _forward(integrate: Integrate, problem: Problem, way_mask: Array | None) -> tuple[Array, Array, Array]:
    w0, features, target, ridge, horizon = problem
    return forward_flow(integrate, w0, features, horizon, reduce(w0, features, target, ridge, way_mask))


def _full(integrate: Integrate, problem: Problem, way_mask: Array | None) -> tuple[Array, Array, Array]:
    def logits(w: Array, problem: Problem) -> Array:
        return mask_ways(problem.features @ w.T, way_mask)

    def loss(w: Array, problem: Problem) -> Array:
        cross_entropy = -(problem.target * jax.nn.log_softmax(logits(w, problem))).sum()
        return cross_entropy + problem.ridge / 2 * jnp.square(w - problem.w0).sum()

    def descent(args: tuple[Problem, Reduced], w: Array) -> Array:
        return -jax.grad(loss)(w, args[0])

    def probe(args: tuple[Problem, Reduced], w: Array) -> tuple[Reduced, Array]:
        return args[1], jax.nn.softmax(logits(w, args[0]))

    w0, features, target, ridge, horizon = problem
    args = problem, reduce(w0, features, target, ridge, way_mask)
    solution = integrate(descent, probe, w0, args, horizon)
    return solution.state, solution.steps, solution.ok


_METHODS = {"adjoint": _adjoint, "forward": _forward, "full": _full}


def _integrator(
    method: str, solver: str | None, step_size: float | None, rtol: float, atol: float, max_steps: int
) -> Integrate:
    """The integrator that the settings name; raises ValueError with advice where they do not fit."""
    if method not in SOLVERS:
        raise ValueError(f"gradient_flow: unknown method {method!r}; use {_names(SOLVERS)}")
    solver = solver or SOLVERS[method][0]
    if solver not in SOLVERS[method]:
        raise ValueError(
            f"gradient_flow: method {method!r} has no solver {solver!r}; use {_names(SOLVERS[method])}"
        )
    if solver == "euler":
        if not isinstance(step_size, int | float) or not step_size > 0:
            raise ValueError(
                f"gradient_flow: solver 'euler' needs a positive number as step_size, got {step_size!r}; "
                "give the learning rate of its gradient steps"
            )

        def steps(field: Field, _: Probe, y0: PyTree, args: PyTree, horizon: Array) -> Solution:
            return euler(field, y0, args, horizon, step_size=step_size, max_steps=max_steps)

        return steps
    if step_size is not None:
        raise ValueError(
            f"gradient_flow: step_size={step_size!r} means nothing to the adaptive solver {solver!r}; "
            "drop it, or use solver='euler'"
        )
    return functools.partial(adaptive, stages=_stages(solver, rtol, max_steps), rtol=rtol, atol=atol)


def _stages(solver: str, rtol: float, max_steps: int) -> tuple[tuple[Any, int], ...]:
    if solver != "auto":
        return ((({**EXPLICIT, **STIFF})[solver](), max_steps),)
    # What a flow that is not stiff needs up to T = 1e6, by measurement; the steps of a method of order five.
    explicit = min(max_steps, math.ceil(96 * max(1.0, (1e-5 / rtol) ** 0.2)))
    stiff = ((Rodas(), max_steps - explicit),) if max_steps > explicit else ()
    return ((diffrax.Tsit5(), explicit), *stiff)


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
