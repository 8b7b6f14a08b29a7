"""The derivative through a clipped gradient, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta.rules.clip_gradients import clip_gradients

RATE, LIMIT = 0.1, 2.0
CURVATURE = np.array([1.0, 3.0, 5.0])


def test_a_clipped_coordinate_moves_by_a_constant():
    """A step down sum(a w^2) / 2, whose gradient is a w: dw'/dw is 1 - rate a within the limit, 1 beyond."""
    start = np.array([-1.5, 0.5, -0.6])  # gradients -1.5, 1.5, -3.0
    rule = clip_gradients(jmeta.sgd(RATE), LIMIT)

    def step(params):
        return jmeta.inner_loop(lambda w, _: (CURVATURE * w**2).sum() / 2, rule, (), params, 1)[0]

    gradient = np.clip(CURVATURE * start, -LIMIT, LIMIT)
    np.testing.assert_allclose(step(jnp.asarray(start)), start - RATE * gradient, rtol=1e-12)
    slopes = np.where(np.abs(CURVATURE * start) < LIMIT, 1 - RATE * CURVATURE, 1)
    np.testing.assert_allclose(jax.jacobian(step)(jnp.asarray(start)), np.diag(slopes), atol=1e-12)
