"""The limit of the flow against the full space's Newton system and against a long flow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_reference import loss, padded, problem, relative

from jmeta.inner.flow.gradient_flow import gradient_flow
from jmeta.inner.flow.limit import gradient_flow_limit


@functools.cache
def limit_gradient():
    def outer(w0, features, labels, ridge, outer_gradient):
        w = gradient_flow_limit(w0, features, labels, ridge=ridge)
        return (outer_gradient * w).sum(), w

    return jax.jit(jax.value_and_grad(outer, (0, 1, 2, 3), has_aux=True))


@pytest.mark.parametrize("ridge", [0.01, 0.5])
def test_limit_and_its_derivative_in_the_full_space(ridge):
    """Stationary, and its derivative -H^-1 d(gradient) by a dense solve with the weights' own Hessian."""
    w0, features, labels, outer = problem(5, 8, 3, 6, scale=4.0)
    (_, w), gradients = limit_gradient()(w0, features, labels, ridge, outer)

    def slope(w, w0, features, labels, ridge):
        return jax.grad(loss)(w, w0, features, labels, ridge, jnp.ones(8), jnp.zeros(3))

    assert jnp.abs(slope(w, w0, features, labels, ridge)).max() < 1e-12
    size = w.size
    hessian = jax.jacobian(slope)(w, w0, features, labels, ridge).reshape(size, size)
    influence = jnp.linalg.solve(hessian, outer.ravel()).reshape(w.shape)
    expected = jax.vjp(lambda *theta: slope(w, *theta), w0, features, labels, ridge)[1](-influence)
    for got, want in zip(gradients, expected):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_limit_of_a_long_flow():
    w0, features, labels, outer = problem(6, 5, 3, 6)

    def flow(w0, features, labels, ridge):
        w = gradient_flow(w0, features, labels, 400.0, ridge=ridge, solver="rodas", rtol=1e-8, atol=1e-8)
        return (outer * w).sum()

    value, expected = jax.jit(jax.value_and_grad(flow, (0, 1, 2, 3)))(w0, features, labels, 0.1)
    (limit, _), gradients = limit_gradient()(w0, features, labels, 0.1, outer)
    np.testing.assert_allclose(limit, value, rtol=1e-7)
    for got, want in zip(gradients, expected):
        assert relative(got, want) < 1e-6


def test_batches_padding_and_failures():
    w0, features, labels, _ = problem(7, 6, 3, 5)
    want = gradient_flow_limit(w0, features, labels, ridge=0.2)

    def outer(ridge, features):
        w = gradient_flow_limit(
            padded(w0, 4, 5),
            features,
            padded(labels, 8, 4),
            ridge=ridge,
            mask=jnp.arange(8) < 6,
            way_mask=jnp.arange(4) < 3,
        )
        return w.sum(), w

    wide = padded(features, 8, 5).at[6:].set(jnp.nan)
    batch = jnp.stack([wide, wide, wide.at[0, 0].set(jnp.nan), 100 * wide])
    run = jax.jit(jax.vmap(jax.value_and_grad(outer, (0, 1), has_aux=True)))
    (_, w), gradients = run(jnp.asarray([0.2, 0.0, 0.2, 1e-3]), batch)
    np.testing.assert_allclose(w[0, :3], want, rtol=1e-10)
    np.testing.assert_array_equal(w[0, 3], 0)
    assert jnp.isfinite(w[3]).all() and jnp.isfinite(gradients[0][3])
    for failed in (1, 2):
        assert jnp.isnan(w[failed]).all() and jnp.isnan(gradients[0][failed])
        assert jnp.isnan(gradients[1][failed, :6]).all()


@pytest.mark.parametrize("ridge", [0.0, -1.0, np.nan])
def test_limit_needs_a_ridge(ridge):
    w0, features, labels, _ = problem(7, 6, 3, 5)
    with pytest.raises(ValueError, match="must be positive.*or use gradient_flow with a finite horizon"):
        gradient_flow_limit(w0, features, labels, ridge=ridge)
