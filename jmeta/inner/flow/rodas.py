"""A stiff solver for the reduced flow: RODAS, a Rosenbrock method with the flow's own linear algebra.

Once the fast directions of a flow have come to rest (soft labels, a ridge) the stability of an explicit
solver, no longer accuracy, limits its steps. A Rosenbrock method needs no iteration, only the exact Jacobian,
whose structure makes each linear system cheap (`shifted_solve`). RODAS is L-stable and stiffly accurate:
a step far beyond the equilibrium lands on it, and so does its derivative.
"""

from __future__ import annotations

from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from jmeta.inner.flow.reduced import Reduced, position, shifted_solve, velocity
from jmeta.types import Array

# RODAS of order 4(3), six stages: E. Hairer and G. Wanner, Solving Ordinary Differential Equations II,
# section VI.4, in the variables that avoid a multiplication by the Jacobian.
_GAMMA = 0.25
_STAGES = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [1.544, 0, 0, 0, 0, 0],
        [0.9466785280815826, 0.2557011698983284, 0, 0, 0, 0],
        [3.314825187068521, 2.896124015972201, 0.9986419139977817, 0, 0, 0],
        [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950, 0, 0],
        [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950, 1, 0],
    ]
)
_COUPLING = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [-5.6688, 0, 0, 0, 0, 0],
        [-2.430093356833875, -0.2063599157091915, 0, 0, 0, 0],
        [-0.1073529058151375, -9.594562251023355, -20.47028614809616, 0, 0, 0],
        [7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160, 0, 0],
        [8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054, 0],
    ]
)


class Rodas(diffrax.AbstractAdaptiveSolver):
    """The RODAS method on the vector field `horizon * velocity(flow, s)`, with `args = (horizon, flow)`."""

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """Return the order of the method."""
        return 4

    def init(self, terms: Any, t0: Any, t1: Any, y0: Array, args: Any) -> None:
        """Return no state: nothing is carried from step to step."""

    def func(self, terms: Any, t0: Any, y0: Array, args: Any) -> Array:
        """Evaluate the vector field."""
        return terms.vf(t0, y0, args)

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Array,
        args: tuple[Array, Reduced],
        solver_state: None,
        made_jump: Any,
    ) -> tuple[Array, Array, dict[str, Array], None, Any]:
        """Take one step from `y0` [shot, way], with its error estimate."""
        horizon, flow = args
        step_size = jnp.maximum(t1 - t0, 0)  # negative where another task of the batch is still on its way
        y1, error = rodas_step(flow, y0, step_size * horizon)
        return y1, error, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful


def rodas_step(flow: Reduced, s: Array, step_size: Array) -> tuple[Array, Array]:
    """Advance `s` [shot, way] by `step_size` units of the flow's time: the new state and its error."""
    scale = _GAMMA * step_size
    _, p = position(flow, s)
    solve = shifted_solve(flow, p, 1 + scale * flow.ridge, scale)
    stages, coupling = (jnp.asarray(table, s.dtype) for table in (_STAGES, _COUPLING))

    def stage(u: Array, row: tuple[Array, Array, Array]) -> tuple[Array, None]:
        i, before, coupled = row
        slope = scale * velocity(flow, s + jnp.tensordot(before, u, 1))
        return u.at[i].set(solve(slope + _GAMMA * jnp.tensordot(coupled, u, 1))), None

    u = jnp.zeros((len(_STAGES), *s.shape), s.dtype)  # [stage, shot, way]
    u, _ = jax.lax.scan(stage, u, (jnp.arange(len(_STAGES)), stages, coupling))
    return s + jnp.tensordot(stages[-1], u, 1) + u[-1], u[-1]
