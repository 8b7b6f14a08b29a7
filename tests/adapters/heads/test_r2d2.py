"""R2D2: against the ridge solution in the other space, by hand, by differences, and under padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.adapters.heads.r2d2 import r2d2
from jmeta.types import Batch

WAY, FEATURES = 3, 10


@pytest.fixture(scope="module")
def episode():
    keys = jax.random.split(jax.random.key(0), 2)
    return Batch(jax.random.normal(keys[0], (6, FEATURES)), jnp.arange(6) % WAY), jax.random.normal(
        keys[1], (4, FEATURES)
    )


def fitted(head, support, log_penalty=None):
    meta = head.init(None, support.x)
    meta = meta if log_penalty is None else meta | {"log_penalty": log_penalty}
    fast, _ = head.fit(meta, support, None, present=None, train=True)
    return meta, fast


def primal(x, y, penalty):
    """NumPy: (X^T X + p I)^-1 X^T Y with a column of ones."""
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ np.eye(WAY)[y])


@pytest.mark.parametrize("by_shots, penalty", [(True, 2.0 * 6), (False, 2.0)])
def test_the_dual_solution_is_the_primal_one(episode, by_shots, penalty):
    support, queries = episode
    head = r2d2(WAY, penalty=2.0, penalty_by_shots=by_shots, scale=3.0)
    meta, weights = fitted(head, support)
    expected = primal(np.asarray(support.x), np.asarray(support.y), penalty)
    np.testing.assert_allclose(weights, expected, rtol=1e-10, atol=1e-12)
    meta = meta | {"bias": jnp.asarray(0.5)}
    ones = np.concatenate([queries, np.ones((4, 1))], 1)
    np.testing.assert_allclose(head.predict(meta, weights, queries), 3 * ones @ expected + 0.5, rtol=1e-9)


def test_a_small_penalty_interpolates_the_support_labels(episode):
    support, _ = episode
    head = r2d2(WAY, penalty=1e-9, scale=1.0)
    meta, weights = fitted(head, support)
    np.testing.assert_allclose(
        head.predict(meta, weights, support.x), jax.nn.one_hot(support.y, WAY), atol=1e-6
    )


def test_the_gradient_in_features_and_penalty_agrees_with_differences(episode):
    support, queries = episode
    head = r2d2(WAY, penalty=2.0, learn_penalty=True)

    def loss(x, log_penalty):
        meta, weights = fitted(head, support._replace(x=x), log_penalty)
        return jmeta.cross_entropy(head.predict(meta, weights, queries), Batch(queries, jnp.arange(4) % WAY))

    x, log_penalty = support.x, jnp.log(2.0)
    of_x, of_penalty = jax.grad(loss, argnums=(0, 1))(x, log_penalty)
    direction, h = jax.random.normal(jax.random.key(3), x.shape), 1e-5
    slope = (loss(x + h * direction, log_penalty) - loss(x - h * direction, log_penalty)) / (2 * h)
    np.testing.assert_allclose((of_x * direction).sum(), slope, rtol=1e-7)
    slope = (loss(x, log_penalty + h) - loss(x, log_penalty - h)) / (2 * h)
    np.testing.assert_allclose(of_penalty, slope, rtol=1e-7)
    assert abs(of_penalty) > 1e-4


def test_a_fixed_penalty_gets_no_gradient(episode):
    support, queries = episode

    def total(log_penalty):
        meta, weights = fitted(r2d2(WAY), support, log_penalty)
        return r2d2(WAY).predict(meta, weights, queries).sum()

    assert jax.grad(total)(jnp.log(2.0)) == 0


def test_padded_rows_change_nothing(episode):
    support, queries = episode
    padded = Batch(
        jnp.concatenate([support.x, jnp.full((3, FEATURES), 7.0)]), jnp.pad(support.y, (0, 3)),
        jnp.arange(9) < 6,
    )  # fmt: skip
    (meta, small), (_, large) = (fitted(r2d2(WAY), batch) for batch in (support, padded))
    np.testing.assert_allclose(large, small, rtol=1e-10, atol=1e-14)
    assert r2d2(WAY).predict(meta, large, queries).shape == (4, WAY)


@pytest.mark.parametrize("name", ["penalty", "scale"])
def test_bad_settings_raise(name):
    with pytest.raises(ValueError, match=f"r2d2: {name}=0.0; expected a positive number"):
        r2d2(WAY, **{name: 0.0})
