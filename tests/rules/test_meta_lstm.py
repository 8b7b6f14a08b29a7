"""The meta-learner LSTM against its released code, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.rules.meta_lstm import meta_lstm

HIDDEN, DIVISOR = 4, 5.0
GRADIENTS = np.array([[0.3, -2.0, 1e-5, 0.0], [1.5, 0.02, -0.7, 4e-6], [-0.1, 0.9, 2.0, -3.0]])
LOSSES = np.array([1.7, 0.4, 2e-5])


def _sigmoid(values):
    return 1 / (1 + np.exp(-values))


def _log_and_sign(value):
    if abs(value) < np.exp(-10):
        return [-1.0, np.exp(10) * value]
    return [np.log(abs(value) + 1e-8) / 10, np.sign(value)]


def _columns(inputs, gradient, loss):
    if inputs == "raw_gradient":
        return gradient[:, None]
    before = _log_and_sign(loss) if inputs == "loss_and_gradient" else []
    return np.array([before + _log_and_sign(g) for g in gradient])


@pytest.mark.parametrize("inputs", ["loss_and_gradient", "gradient", "raw_gradient"])
def test_three_steps_by_hand(inputs):
    """Gates see the first cell's output, the weight and their own pre-activation of the step before."""
    random = np.random.default_rng(0)
    rule = meta_lstm(HIDDEN, inputs=inputs, gradient_divisor=DIVISOR)
    params = random.normal(size=4)
    hyper = rule.init(jax.random.key(0), jnp.asarray(params))
    hyper = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), hyper)
    carry, update = rule.start(hyper, jnp.asarray(params), None), jax.jit(rule.update)
    cell, output, state = hyper["cell"], np.zeros((4, HIDDEN)), np.zeros((4, HIDDEN))
    gates = {"forget": np.zeros(4), "input": np.zeros(4)}
    for step, (gradient, loss) in enumerate(zip(GRADIENTS, LOSSES)):
        moves, carry = update(hyper, jnp.asarray(gradient), carry, jnp.asarray(params), loss=loss, step=step)
        g = gradient / DIVISOR
        pre = _columns(inputs, g, loss) @ cell["input_kernel"] + cell["input_bias"]
        pre = pre + output @ cell["recurrent_kernel"] + cell["recurrent_bias"]
        accept, forget, candidate, emit = np.split(pre, 4, axis=1)
        state = _sigmoid(forget) * state + _sigmoid(accept) * np.tanh(candidate)
        output = _sigmoid(emit) * np.tanh(state)
        for name, before in gates.items():
            seen = np.column_stack([output, params, before])
            gates[name] = seen @ hyper[name]["kernel"] + hyper[name]["bias"]
        expected = _sigmoid(gates["forget"]) * params - _sigmoid(gates["input"]) * g
        params = params + np.asarray(moves)
        np.testing.assert_allclose(params, expected, rtol=1e-9)


def test_the_loss_is_a_constant():
    params = jnp.array([0.5, -1.0], jnp.float64)
    rule = meta_lstm(HIDDEN)
    hyper = rule.init(jax.random.key(0), params)
    carry = rule.start(hyper, params, None)

    def move(loss):
        return rule.update(hyper, params, carry, params, loss=loss, step=0)[0]

    loss = jnp.float64(1.3)
    assert (move(loss) != move(loss + 1)).all()
    np.testing.assert_array_equal(jax.jacobian(move)(loss), 0)
