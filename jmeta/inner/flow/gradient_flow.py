"""Adaptation in continuous time: a linear classifier follows the gradient flow of its loss to a horizon.

`dW/dt = -grad L(W)`, `W(0) = W0`, with L the mean cross-entropy of the support examples plus
`ridge/2 ||W - W0||^2` (COMLN, section 3.1). Methods differ in how they compute the meta-gradient:

- "adjoint": the flow in the space of its examples, and back over its checkpointed steps. The default.
- "forward": the paper's forward sensitivities (sections 4.1 and 4.2).
- "full": reverse mode through the flow of the weights themselves; slow, the reference.

Deviations. The defaults are not the paper's: method="adjoint" instead of its forward sensitivities
(method="forward"), and Tsit5 with rtol=1e-5, atol=1e-6 in float32 instead of Dormand-Prince with 1.4e-8
(solver="dopri5" and these tolerances).
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, ParamSpec

import diffrax
import jax
import jax.numpy as jnp

from jmeta.inner.flow.integrate import Field, Integrate, Solution, adaptive, euler
from jmeta.inner.flow.problem import Problem, make_problem, solve_valid
from jmeta.inner.flow.reduced import Reduced, mask_ways, position, reduce, velocity
from jmeta.inner.flow.rodas import Rodas
from jmeta.inner.flow.sensitivity import forward_flow
from jmeta.inner.flow.stability import Probe
from jmeta.types import Array, FlowInfo, PyTree

FlowMethod = Literal["adjoint", "forward", "full"]
_Arguments = ParamSpec("_Arguments")

_EXPLICIT = {"tsit5": diffrax.Tsit5, "dopri5": diffrax.Dopri5}
_STIFF = {"rodas": Rodas, "kvaerno5": diffrax.Kvaerno5}
_SOLVERS = {
    "adjoint": ("auto", *_EXPLICIT, *_STIFF, "euler"),
    "forward": (*_EXPLICIT, "euler"),
    "full": (*_EXPLICIT, "euler"),
}


def gradient_flow_with_info(
    w0: Array,
    features: Array,
    labels: Array,
    horizon: Array | float,
    *,
    method: FlowMethod = "adjoint",
    solver: str | None = None,
    step_size: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    ridge: Array | float = 0.0,
    mask: Array | None = None,
    max_steps: int = 4096,
    way_mask: Array | None = None,
) -> tuple[Array, FlowInfo]:
    """Follow the gradient flow of the loss from the classifier `w0` to the horizon T; return W(T) and info.

    Source: COMLN (Deleu et al. 2022), eq. 8; with `solver="euler"` ANIL's `horizon / step_size` gradient
    steps of size `step_size` (section 3.3), the last one shorter if that is not a whole number.

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
      rtol: relative tolerance of the adaptive solvers.
      atol: their absolute tolerance.
      ridge: strength [] of the proximal term.
      mask: [shot], 0 for padded examples, which take no part.
      max_steps: bound of the solver's steps; memory grows with its square root.
      way_mask: [way], false for absent ways, which take no part in the softmax and keep their row of `w0`.

    Returns:
      W(T) [way, feature] in the inputs' dtype, and FlowInfo(steps [] int32, ok [] bool). A flow that did not
      reach its horizon within `max_steps`, a negative horizon and inputs that are not finite give NaN, in the
      value and in every gradient.

    Raises:
      ValueError: for shapes, names or numbers that do not fit, and for a horizon known to be negative or not
        finite when the call is traced.
    """
    if max_steps < 1:
        raise ValueError(f"gradient_flow: max_steps={max_steps!r} must be at least 1")
    integrate = _integrator(method, solver, step_size, rtol, atol, max_steps)
    problem = make_problem("gradient_flow", w0, features, labels, horizon, ridge, mask, way_mask)
    w, steps, ok = solve_valid(functools.partial(_METHODS[method], integrate, way_mask=way_mask), problem)
    return w.astype(jnp.result_type(w0, features)), FlowInfo(steps, ok)


def _arguments_of(
    reference: Callable[_Arguments, Any],
) -> Callable[[Callable[..., Array]], Callable[_Arguments, Array]]:
    """Give a function the arguments of `reference`, for `help`, editors and type checkers."""

    def decorate(function: Callable[..., Array]) -> Callable[_Arguments, Array]:
        signature = inspect.signature(reference).replace(return_annotation="Array")
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return decorate


@_arguments_of(gradient_flow_with_info)
def gradient_flow(*args: Any, **settings: Any) -> Array:
    """Follow the gradient flow of the loss from the classifier `w0` to the horizon T; return W(T).

    W(T) [way, feature] from `w0` [way, feature], `features` [shot, feature], `labels` [shot, way] and
    `horizon` []: arguments, derivatives and errors are those of `gradient_flow_with_info`. A flow that did
    not reach its horizon is NaN, in the value and in every gradient.
    """
    return gradient_flow_with_info(*args, **settings)[0]


def _adjoint(integrate: Integrate, problem: Problem, way_mask: Array | None) -> tuple[Array, Array, Array]:
    w0, features, target, ridge, horizon = problem
    flow = reduce(w0, features, target, ridge, way_mask)
    solution = integrate(velocity, position, jnp.zeros_like(target), flow, horizon)
    w = w0 - solution.state.T @ features  # [way, feature]
    return w, solution.steps, solution.ok


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
    """Make the integrator for these settings; raise ValueError with advice if they do not fit."""
    if method not in _SOLVERS:
        raise ValueError(f"gradient_flow: unknown method {method!r}; use {_names(_SOLVERS)}")
    solver = solver or _SOLVERS[method][0]
    if solver not in _SOLVERS[method]:
        raise ValueError(
            f"gradient_flow: method {method!r} has no solver {solver!r}; use {_names(_SOLVERS[method])}"
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
            f"gradient_flow: step_size={step_size!r} is not an option of the adaptive solver {solver!r}; "
            "drop it, or use solver='euler'"
        )
    return functools.partial(adaptive, stages=_stages(solver, rtol, max_steps), rtol=rtol, atol=atol)


def _stages(solver: str, rtol: float, max_steps: int) -> tuple[tuple[Any, int], ...]:
    if solver != "auto":
        return ((({**_EXPLICIT, **_STIFF})[solver](), max_steps),)
    # Enough for a flow that is not stiff up to T = 1e6, by measurement, for a method of order five.
    explicit = min(max_steps, math.ceil(96 * max(1.0, (1e-5 / rtol) ** 0.2)))
    stiff = ((Rodas(), max_steps - explicit),) if max_steps > explicit else ()
    return ((diffrax.Tsit5(), explicit), *stiff)


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
