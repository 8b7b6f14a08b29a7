"""TURTLE with all its inputs against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.rules.turtle import turtle

GRADIENTS = np.array([[0.3, -2.0, 0.1], [1.5, 0.02, -0.7], [-0.1, 0.9, 2.0]])
LOSSES = np.array([1.7, 0.4, 0.2])
INPUTS = ("loss", "gradient", "gradient_history", "update_history", "step")


def test_three_steps_by_hand():
    """The history of updates is that of alpha m, as the weights see them, and begins with the first."""
    random = np.random.default_rng(0)
    rule = turtle((5, 4), inputs=INPUTS, decay=0.8)
    hyper = rule.init(jax.random.key(0), jnp.zeros(3, jnp.float64))
    hyper = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), hyper)
    carry, update = rule.start(hyper, jnp.zeros(3, jnp.float64), None), jax.jit(rule.update)
    gradients = updates = np.zeros(3)
    for step, (gradient, loss) in enumerate(zip(GRADIENTS, LOSSES)):
        moves, carry = update(hyper, jnp.asarray(gradient), carry, None, loss=loss, step=jnp.int32(step))
        gradients = 0.8 * gradients + 0.2 * gradient if step else gradient
        x = np.column_stack([np.full(3, loss), gradient, gradients, updates, np.full(3, float(step))])
        for index, layer in enumerate(hyper["network"]):
            x = x @ layer["kernel"] + layer["bias"]
            x = np.maximum(x, 0) if index < 2 else x
        expected = hyper["rates"] * x[:, 0]
        updates = 0.8 * updates + 0.2 * expected if step else expected
        np.testing.assert_allclose(moves, expected, rtol=1e-9)
        np.testing.assert_allclose(carry["update_history"], updates, rtol=1e-9)


def test_the_loss_is_a_constant():
    params = jnp.array([0.5, -1.0], jnp.float64)
    rule = turtle(inputs=("loss", "gradient"))
    hyper = rule.init(jax.random.key(0), params)

    def move(loss):
        return rule.update(hyper, params, {}, params, loss=loss, step=0)[0]

    loss = jnp.float64(1.3)
    assert (move(loss) != move(loss + 1)).all()
    np.testing.assert_array_equal(jax.jacobian(move)(loss), 0)
