"""First order with a rule that reads the loss, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta.types import Rule


def test_first_order_stops_the_loss_as_it_stops_the_gradient():
    """w' = w - h loss gradient of loss = w^2 / 2: with both constant, dw'/dw = 1 and dw'/dh = -w^3 / 2."""
    rule = Rule(
        lambda key, params: (),
        lambda hyper, params, key: (),
        lambda hyper, grads, carry, params, *, loss, step: (-hyper * loss * grads, carry),
    )

    def adapted(start, hyper, order):
        return jmeta.inner_loop(lambda w, _: w**2 / 2, rule, hyper, start, 1, order=order)[0]

    w, h = 1.5, 0.1
    for order, slope in (("first", 1.0), ("exact", 1 - h * 3 * w**2 / 2)):
        value_and_grad = jax.value_and_grad(adapted, (0, 1))
        value, slopes = value_and_grad(jnp.float64(w), jnp.float64(h), order)
        np.testing.assert_allclose(value, w - h * w**3 / 2, rtol=1e-12)
        np.testing.assert_allclose(slopes, (slope, -(w**3) / 2), rtol=1e-12)
