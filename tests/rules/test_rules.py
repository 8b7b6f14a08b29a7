"""Gradient descent with learned rates, and the bridges to and from optax."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

import jmeta
from jmeta.types import Rule

PARAMS = {"w": jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.asarray([0.25, -0.75])}
GRADS = {"w": jnp.asarray([[0.5, 1.0], [-1.0, 2.0]]), "b": jnp.asarray([4.0, -1.0])}


def update(rule, hyper, step=0):
    updates, carry = rule.update(
        hyper, GRADS, rule.start(hyper, PARAMS, None), PARAMS, loss=jnp.ones(()), step=jnp.asarray(step)
    )
    assert carry == ()
    return updates


@settings(deadline=None, max_examples=15)
@given(rate=st.floats(-2, 2), learn=st.sampled_from([None, "scalar", "leaf", "element", "step_leaf"]))
def test_every_form_of_the_rate_starts_as_plain_descent(rate, learn):
    rule = jmeta.sgd(rate, learn=learn, steps=3 if learn == "step_leaf" else None)
    hyper = rule.init(jax.random.key(0), PARAMS)
    got = update(rule, hyper)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -rate * g, rtol=1e-6), got, GRADS)


def test_what_is_learned_has_the_shape_it_says():
    def shapes(**options):
        hyper = jmeta.sgd(0.1, **options).init(jax.random.key(0), jax.tree.map(jnp.float32, PARAMS))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(hyper))
        return jax.tree.map(jnp.shape, hyper)

    assert shapes() == ()
    assert shapes(learn="scalar") == ()
    assert shapes(learn="leaf") == {"w": (), "b": ()}
    assert shapes(learn="element") == {"w": (2, 2), "b": (2,)}
    assert shapes(learn="step_leaf", steps=4) == {"w": (4,), "b": (4,)}


def test_each_step_has_its_rate_and_later_ones_keep_the_last():
    rule = jmeta.sgd(0.1, learn="step_leaf", steps=2)
    hyper = {"w": jnp.asarray([1.0, 2.0]), "b": jnp.asarray([3.0, 4.0])}
    for step, (w, b) in enumerate([(1, 3), (2, 4), (2, 4)]):
        got = update(rule, hyper, step)
        np.testing.assert_array_equal(got["w"], -w * GRADS["w"])
        np.testing.assert_array_equal(got["b"], -b * GRADS["b"])


@pytest.mark.parametrize("learn", ["scalar", "leaf", "element", "step_leaf"])
@pytest.mark.parametrize("order", ["exact", "first"])
def test_learned_rates_get_gradients(learn, order):
    rule = jmeta.sgd(0.1, learn=learn, steps=2 if learn == "step_leaf" else None)

    def value(hyper):
        fast, _ = jmeta.inner_loop(
            lambda p, k: optax.tree.norm(p, squared=True) / 2, rule, hyper, PARAMS, 2, order=order
        )
        return optax.tree.norm(fast, squared=True) / 2

    hyper = rule.init(jax.random.key(0), PARAMS)
    slope = jax.jit(jax.grad(value))(hyper)
    # w2 = (1 - r)^2 w: dQ/dr = -2 (1 - r)^3 |w|^2 when differentiated exactly; in first order each step's
    # gradient is a constant, (1 - r)^k w.
    weight = {"exact": -2 * 0.9**3, "first": -(0.9**2) * (1 + 0.9)}[order]
    total = sum(leaf.sum() for leaf in jax.tree.leaves(slope))
    np.testing.assert_allclose(total, weight * optax.tree.norm(PARAMS, squared=True), rtol=1e-12)
    assert all((leaf != 0).all() for leaf in jax.tree.leaves(slope))


def test_settings_of_sgd_that_mean_nothing():
    for options in ({"learn": "layer"}, {"learn": "step_leaf"}, {"steps": 3}, {"learn": "leaf", "steps": 3}):
        with pytest.raises(ValueError, match="sgd: "):
            jmeta.sgd(0.1, **options)


def loss_fn(params, step):
    return (jnp.tanh(params["w"]) ** 2).sum() + (params["b"] ** 4).sum()


def test_optax_adam_as_a_rule_is_optax_adam():
    tx = optax.adam(0.1, eps_root=1e-8)

    @jax.jit
    def by_hand(params):
        state = tx.init(params)
        for step in range(4):
            updates, state = tx.update(jax.grad(loss_fn)(params, step), state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    expected, state = by_hand(PARAMS)
    got, trace = jax.jit(lambda p: jmeta.inner_loop(loss_fn, jmeta.from_optax(tx), (), p, 4))(PARAMS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), (got, trace.carry), (expected, state)
    )


def test_a_rule_as_optax_trains_like_optax():
    tx, plain = jmeta.as_optax(jmeta.sgd(0.1), ()), optax.sgd(0.1)
    got, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    expected, _ = plain.update(GRADS, plain.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert state.steps == 1 and state.steps.dtype == jnp.int32
    # Within a chain, per step, with learned rates.
    tx = optax.chain(
        jmeta.as_optax(jmeta.sgd(0.0, learn="step_leaf", steps=2), {"w": jnp.asarray([1.0, 2.0])})
    )
    state = tx.init({"w": PARAMS["w"]})
    for rate in (1.0, 2.0, 2.0):
        got, state = tx.update({"w": GRADS["w"]}, state, {"w": PARAMS["w"]})
        np.testing.assert_array_equal(got["w"], -rate * GRADS["w"])


def test_the_loss_reaches_a_rule_at_work_in_optax_and_back():
    rule = Rule(
        init=lambda key, params: (),
        start=lambda hyper, params, key: jax.random.normal(key),
        update=lambda hyper, g, carry, params, *, loss, step: (
            jax.tree.map(lambda leaf: -loss * leaf, g),
            carry,
        ),
    )
    tx = jmeta.as_optax(rule, (), jax.random.key(7))
    there_and_back = jmeta.from_optax(tx)
    carry = there_and_back.start((), PARAMS, None)
    assert carry.carry == jax.random.normal(jax.random.key(7))
    got, _ = there_and_back.update((), GRADS, carry, PARAMS, loss=jnp.asarray(3.0), step=jnp.asarray(0))
    jax.tree.map(lambda u, g: np.testing.assert_array_equal(u, -3 * g), got, GRADS)


def clipped(grads, limit, by="norm"):
    rule = jmeta.clip_gradients(jmeta.sgd(-1.0), limit, by=by)
    return rule.update((), grads, (), grads, loss=jnp.ones(()), step=0)[0]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), st.sampled_from([0.25, 1.0, 3.0, 50.0]))
def test_gradients_are_clipped_by_their_norm(values, limit):
    grads = {"a": jnp.asarray(values[:1]), "b": jnp.asarray(values[1:]).reshape(1, 2)}
    norm = np.linalg.norm(np.asarray(values, np.float64))
    factor = min(1, limit / norm) if norm else 1
    got = clipped(grads, limit)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, factor * g, rtol=1e-6, atol=1e-30), got, grads)


def test_the_derivative_of_a_clipped_norm():
    """d(l g / |g|) = l / |g| (I - g g^T / |g|^2), the identity below the limit, and both at no gradient."""
    g = jnp.array([3.0, 4.0, 0.0])
    jacobian = jax.jacrev(lambda g: clipped(g, 2.0))(g)
    np.testing.assert_allclose(jacobian, 2 / 5 * (np.eye(3) - np.outer(g, g) / 25), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(jax.jacrev(lambda g: clipped(g, 6.0))(g), np.eye(3))
    np.testing.assert_array_equal(jax.jacrev(lambda g: clipped(g, 6.0))(jnp.zeros(3)), np.eye(3))


def test_large_gradients_are_clipped_without_overflow():
    huge = {"a": jnp.array([3e30, 4e30], jnp.float32), "b": jnp.zeros(2, jnp.bfloat16)}
    got = clipped(huge, 1.0)
    np.testing.assert_allclose(got["a"], [0.6, 0.8], rtol=1e-6)
    assert got["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(clipped(huge, 1.0, by="value")["a"], [1, 1])


def test_settings_of_clipping_that_mean_nothing():
    for limit, by, words in ((0.0, "norm", "limit=0.0"), (1.0, "size", "by='size'")):
        with pytest.raises(ValueError, match=words):
            jmeta.clip_gradients(jmeta.sgd(0.1), limit, by=by)


@pytest.mark.parametrize("rule", [jmeta.meta_lstm(4), jmeta.turtle((3,), inputs=("loss", "gradient"))])
def test_a_loss_may_be_a_python_number(rule):
    hyper = rule.init(jax.random.key(0), PARAMS)
    tx = jmeta.as_optax(rule, hyper)
    state = tx.init(PARAMS)
    got, expected = (tx.update(GRADS, state, PARAMS, value=value)[0] for value in (1.3, jnp.asarray(1.3)))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    direct, _ = rule.update(hyper, GRADS, rule.start(hyper, PARAMS, None), PARAMS, loss=1.3, step=0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), direct, expected)
