"""Meta-curvature's matrices: the Kronecker product, the numbers of its gradient, settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.rules.meta_curvature import meta_curvature

NUMBERS = np.random.default_rng(0)


def step(rule, hyper, grads, index=0):
    updates, _ = rule.update(hyper, grads, (), grads, loss=jnp.zeros(()), step=jnp.asarray(index))
    return updates


def test_it_is_a_kronecker_product():
    """vec MC(g) = (M_filter x M_in x M_out') vec g, on a kernel of 3x3 places."""
    g = NUMBERS.normal(size=(3, 3, 3, 4))
    factors = {name: NUMBERS.normal(size=(n, n)) for name, n in (("filter", 9), ("in", 3), ("out", 4))}
    whole = np.kron(np.kron(factors["filter"], factors["in"]), factors["out"].T)
    updates = step(meta_curvature(0.1), {"w": jax.tree.map(jnp.asarray, factors)}, {"w": jnp.asarray(g)})
    np.testing.assert_allclose(updates["w"].ravel(), -0.1 * whole @ g.ravel(), rtol=1e-12)


def test_its_gradient_at_the_identity():
    rule, g = meta_curvature(0.1), jnp.array([[1.0, 2.0], [0.0, -1.0]])
    query = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    hyper = rule.init(jax.random.key(0), {"w": g})
    grads = jax.grad(lambda hyper: (query * step(rule, hyper, {"w": g})["w"]).sum())(hyper)["w"]
    np.testing.assert_allclose(grads["in"], [[-0.1, 0], [-0.3, 0.1]], rtol=1e-12)
    np.testing.assert_allclose(grads["out"], [[-0.1, 0], [-0.1, 0.1]], rtol=1e-12)


def test_diagonal_matrices_are_rates_of_rows_and_columns():
    g = NUMBERS.normal(size=(3, 4))
    rows, columns = NUMBERS.normal(size=3), NUMBERS.normal(size=4)
    expected = -0.1 * np.outer(rows, columns) * g
    for rule, own in (
        (meta_curvature(0.1), {"in": jnp.diag(rows), "out": jnp.diag(columns)}),
        (meta_curvature(0.1, largest=2), {"in": jnp.asarray(rows), "out": jnp.asarray(columns)}),
        (meta_curvature(0.1, largest=3), {"in": jnp.diag(rows), "out": jnp.asarray(columns)}),
    ):
        shapes = jax.tree.map(jnp.shape, rule.init(jax.random.key(0), {"w": jnp.asarray(g)}))["w"]
        assert shapes == jax.tree.map(jnp.shape, own)
        np.testing.assert_allclose(step(rule, {"w": own}, {"w": jnp.asarray(g)})["w"], expected, rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"modes": ("in", "out")}, {"largest": 3}])
def test_it_starts_as_plain_descent(options):
    params = {"conv": jnp.asarray(NUMBERS.normal(size=(3, 3, 2, 4))), "bias": jnp.arange(4.0)}
    rule = meta_curvature(0.1, **options)
    hyper = rule.init(jax.random.key(0), params)
    assert set(hyper["conv"]) == set(options.get("modes", ("filter", "in", "out")))
    for index in (0, 1, 5):
        expected = jmeta.sgd(0.1).update((), params, (), params, loss=None, step=index)[0]
        jax.tree.map(np.testing.assert_array_equal, step(rule, hyper, params, index), expected)


def test_each_step_has_its_own_matrices_and_later_ones_the_last():
    rule = meta_curvature(1.0, steps=2)
    hyper = {"b": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    updates = [step(rule, hyper, {"b": jnp.ones(2)}, index)["b"] for index in (0, 1, 7)]
    np.testing.assert_array_equal(updates, [[-1, -2], [-3, -4], [-3, -4]])


@pytest.mark.parametrize(("filters", "entries"), [(64, 2_589_291), (32, 647_659)])
def test_its_size_on_images_of_84(filters, entries):
    """Convolutions and last layer of Conv-4 with 5 ways, without normalization layers."""
    model = jmeta.conv4(filters=filters, head=5)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 84, 84, 3), jnp.float32))
    layers = {name: own for name, own in params.items() if not name.startswith("norm")}
    hyper = jax.eval_shape(meta_curvature(0.1).init, jax.random.key(0), layers)
    assert sum(leaf.size for leaf in jax.tree.leaves(hyper)) == entries


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modes": ("in", "in")}, "modes=in,in; expected one or more of filter, in, out"),
        ({"modes": ()}, "modes=;"),
        ({"modes": ("rows",)}, "modes=rows;"),
        ({"steps": 0}, "steps=0; expected at least 1"),
        ({"largest": 0}, "largest=0"),
    ],
)
def test_settings_that_mean_nothing(options, words):
    with pytest.raises(ValueError, match=words):
        meta_curvature(0.1, **options)


def test_an_array_that_is_no_kernel():
    with pytest.raises(ValueError, match=r"a parameter of shape \(2, 3, 4\); expected biases"):
        meta_curvature(0.1).init(jax.random.key(0), {"w": jnp.zeros((2, 3, 4))})
