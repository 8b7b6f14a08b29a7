"""Forward sensitivities; their gradients against brute force are in test_flow.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_reference import gradient_descent, problem

from jmeta.inner.flow.gradient_flow import gradient_flow


def test_euler_sensitivities_are_those_of_gradient_descent():
    """ANIL's exact meta-gradient with memory that does not depend on the number of steps (section 3.3)."""
    w0, features, labels, outer = problem(1, 10, 5, 7, scale=2.0)
    settings = {"ridge": 0.3, "solver": "euler", "step_size": 0.1, "max_steps": 50, "method": "forward"}

    def flow(w0, features, last):
        return (outer * gradient_flow(w0, features, labels, 3.3 + last, **settings)).sum()

    def descent(w0, features, last):
        sizes = jnp.concatenate([jnp.full(33, 0.1), last[None]])
        return (outer * gradient_descent(w0, features, labels, 0.3, sizes)).sum()

    arguments = w0, features, jnp.asarray(0.037)
    got, got_gradients = jax.jit(jax.value_and_grad(flow, (0, 1, 2)))(*arguments)
    want, want_gradients = jax.jit(jax.value_and_grad(descent, (0, 1, 2)))(*arguments)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    for a, b in zip(got_gradients, want_gradients):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_sensitivities_are_integrated_only_for_a_derivative():
    w0, features, labels, _ = problem(1, 6, 3, 7)

    def flow(w0):
        return gradient_flow(w0, features, labels, 1.0, method="forward").sum()

    assert "[6,6,6,3]" not in str(jax.make_jaxpr(flow)(w0))
    assert "[6,6,6,3]" in str(jax.make_jaxpr(jax.grad(flow))(w0))


@pytest.mark.parametrize("position", [2, 4])
def test_no_derivative_in_labels_or_ridge(position):
    w0, features, labels, _ = problem(1, 6, 3, 7)

    def flow(w0, features, labels, horizon, ridge):
        return gradient_flow(w0, features, labels, horizon, ridge=ridge, method="forward").sum()

    with pytest.raises(ValueError, match="no derivative in the labels or the ridge; use method='adjoint'"):
        jax.jit(jax.grad(flow, position))(w0, features, labels, 1.0, 0.1)
