"""A step-size controller that keeps an explicit solver stable, for the sake of the derivative.

Error control alone lets an explicit solver overstep the limit of stability until the instability shows in the
state. The derivative through those steps shows it at once: each multiplies the fast directions by more than
one, and a meta-gradient that looks finite can be wrong by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from jmeta.inner.flow.reduced import Reduced
from jmeta.types import Array, PyTree

Probe = Callable[[PyTree, PyTree], tuple[Reduced, Array]]  # args, y -> the flow, probabilities [shot, way]

_LIMIT = 3.0  # on the negative real axis tsit5 is stable up to 3.5, dopri5 up to 3.3


class StableSteps(diffrax.AbstractStepSizeController):
    """A limit on the steps of `inner`: the stability limit over the fastest rate of the flow.

    The rate, the largest eigenvalue of A G + ridge I, is followed from step to step by a power iteration.
    """

    inner: diffrax.PIDController
    probe: Probe

    def wrap(self, direction: Any) -> StableSteps:
        """Return the controller itself: time always runs forward here."""
        return self

    def init(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree, dt0: Any, args: Any, func: Any, error_order: Any
    ) -> tuple[Any, Any]:
        """Return the first step's end and the state: `inner`'s, and the fastest direction [shot, way]."""
        end, state = self.inner.init(terms, t0, t1, y0, dt0, args, func, error_order)
        _, p = self.probe(args[1], y0)
        direction = jnp.cos(jnp.arange(p.size, dtype=p.dtype) ** 2).reshape(p.shape)
        for _ in range(4):
            _, direction = self._fastest(args[1], y0, direction)
        return end, (state, direction)

    def adapt_step_size(
        self, t0: Any, t1: Any, y0: PyTree, y1_candidate: PyTree, args: Any, y_error: PyTree, *rest: Any
    ) -> tuple:
        """Accept or reject the step as `inner` does, and shorten the next one if need be."""
        error_order, (state, direction) = rest
        keep, start, end, jump, state, result = self.inner.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, state
        )
        horizon, args = jax.lax.stop_gradient(args)
        rate, direction = self._fastest(args, jax.lax.stop_gradient(y1_candidate), direction)
        longest = _LIMIT / jnp.maximum(horizon * rate, _LIMIT * jnp.finfo(rate.dtype).eps)
        return keep, start, jnp.minimum(end, start + longest), jump, (state, direction), result

    def _fastest(self, args: PyTree, y: PyTree, direction: Array) -> tuple[Array, Array]:
        """Return the Rayleigh quotient of `direction` in the metric of G, the weights', and the next one."""
        flow, p = self.probe(args, y)
        lifted = flow.gram @ direction  # [shot, way]
        image = flow.mass[:, None] * p * (lifted - (p * lifted).sum(-1, keepdims=True))
        tiny = jnp.finfo(image.dtype).tiny
        rate = (lifted * image).sum() / jnp.maximum((direction * lifted).sum(), tiny)
        size = jnp.sqrt((image * image).sum())
        return rate + flow.ridge, jnp.where(size > tiny, image / jnp.maximum(size, tiny), direction)
