"""The stiff solver: its linear algebra, its order, its stability."""

import jax
import jax.numpy as jnp
import numpy as np
from flow_reference import problem

from jmeta.inner.flow.reduced import position, reduce, shifted_solve, targets, velocity
from jmeta.inner.flow.rodas import rodas_step


def reduced_flow(*, ridge=0.05):
    w0, features, labels, _ = problem(0, 7, 3, 20, scale=2.0)
    mask = jnp.asarray([1, 1, 1, 0, 1, 1, 1])
    target = targets(0.9 * labels + 0.1 / 3, mask, None)
    return reduce(w0, features * mask[:, None], target, jnp.asarray(ridge), None)


def test_shifted_solve_is_the_dense_solve():
    flow = reduced_flow()
    s, b = jnp.full((7, 3), 0.2), jnp.asarray(np.random.default_rng(1).normal(size=(7, 3)))
    jacobian = jax.jacobian(lambda s: velocity(flow, s))(s).reshape(21, 21)
    system = jnp.eye(21) - 5.0 * jacobian
    solve = shifted_solve(flow, position(flow, s)[1], 1 + 5.0 * flow.ridge, jnp.asarray(5.0))
    np.testing.assert_allclose(solve(b).ravel(), jnp.linalg.solve(system, b.ravel()), atol=1e-13)
    transposed = jax.linear_transpose(solve, b)(b)[0]
    np.testing.assert_allclose(transposed.ravel(), jnp.linalg.solve(system.T, b.ravel()), atol=1e-13)


def test_order_four():
    flow = reduced_flow()

    @jax.jit
    def integrate(steps):
        start = jnp.zeros((7, 3))
        return jax.lax.fori_loop(0, steps, lambda _, s: rodas_step(flow, s, 5.0 / steps)[0], start)

    exact = integrate(2000)
    errors = [float(jnp.abs(integrate(n) - exact).max()) for n in (40, 80, 160)]
    rates = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (rates > 3.8).all(), rates


def test_a_giant_step_lands_on_the_equilibrium_and_so_does_its_derivative():
    flow = reduced_flow()
    near = jax.lax.fori_loop(0, 200, lambda _, s: rodas_step(flow, s, jnp.asarray(1.0))[0], jnp.zeros((7, 3)))
    assert jnp.abs(velocity(flow, near)).max() > 1e-12

    def step(ridge):
        return rodas_step(flow._replace(ridge=ridge), near, jnp.asarray(1e12))[0]

    rest, derivative = jax.jit(lambda ridge: jax.jvp(step, (ridge,), (jnp.ones_like(ridge),)))(flow.ridge)
    assert jnp.abs(velocity(flow, rest)).max() < 1e-13
    jacobian = jax.jacobian(lambda s: velocity(flow, s))(rest).reshape(21, 21)
    implicit = jnp.linalg.solve(jacobian, rest.ravel())  # the velocity's derivative in the ridge is -s
    np.testing.assert_allclose(derivative.ravel(), implicit, rtol=1e-3, atol=1e-6)
