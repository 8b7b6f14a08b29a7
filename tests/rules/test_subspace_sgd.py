"""MT-net's masks: odds, derivative, one draw a task, one for kernel and bias."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.rules.subspace_sgd import subspace_sgd

PARAMS = {"layer": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "head": {"bias": jnp.ones(2)}}


def moves(rule, hyper, key, steps=2, params=PARAMS):
    """The updates of each step, at a gradient of ones."""
    total = lambda params, step: sum(leaf.sum() for leaf in jax.tree.leaves(params))  # noqa: E731
    collect = lambda params, step, **of_step: params  # noqa: E731
    options = {"order": "first", "remat": "none", "key": key, "collect": collect}
    _, trace = jmeta.inner_loop(total, rule, hyper, params, steps, **options)
    before = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), params, trace.collected
    )
    return jax.tree.map(lambda after, before: after - before, trace.collected, before)


def test_a_unit_moves_in_all_steps_or_in_none_with_its_bias():
    rule = subspace_sgd(1.0)
    hyper = rule.init(jax.random.key(0), PARAMS)
    assert jax.tree.map(jnp.shape, hyper) == {"layer": (4,), "head": (2,)}
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(hyper))
    drawn = [moves(rule, hyper, jax.random.key(seed))["layer"] for seed in range(8)]
    for of_layer in drawn:
        np.testing.assert_array_equal(of_layer["kernel"][0], of_layer["kernel"][1])
        np.testing.assert_array_equal(of_layer["kernel"][:, 0], of_layer["bias"])
        assert set(np.unique(of_layer["bias"])) <= {-1, 0}
    assert len({tuple(np.asarray(of_layer["bias"][0])) for of_layer in drawn}) > 2


def test_a_weight_is_drawn_anew_at_each_step():
    rule = subspace_sgd(1.0, per="weight")
    params = {"w": jnp.ones((40, 50))}
    hyper = rule.init(jax.random.key(0), params)
    assert abs(hyper["w"].std() - 0.01) < 3 * 0.01 / 2 / 1000**0.5 * 1.5
    drawn = moves(rule, hyper, jax.random.key(1), params=params)["w"]
    assert 0.4 < (drawn[0] != drawn[1]).mean() < 0.6
    np.testing.assert_array_equal(drawn, moves(rule, hyper, jax.random.key(1), params=params)["w"])
    still = moves(rule, hyper, None, params=params)["w"]
    np.testing.assert_array_equal(still, jnp.stack([-(hyper["w"] >= 0).astype(float)] * 2))


@pytest.mark.parametrize("score", [2.0, -1.0, 0.0])
def test_odds(score):
    """sigmoid(2) = 88.08 %."""
    rule, count = subspace_sgd(1.0), 20_000
    mask = rule.start({"w": jnp.full(count, score)}, None, jax.random.key(2))["w"]
    expected = 1 / (1 + np.exp(-score))
    assert abs(mask.mean() - expected) < 3 * (expected * (1 - expected) / count) ** 0.5
    np.testing.assert_array_equal(rule.start({"w": jnp.array([score])}, None, None)["w"], [score >= 0])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_derivative_is_that_of_the_soft_mask(temperature):
    rule, scores, key = (
        subspace_sgd(1.0, temperature=temperature),
        jnp.array([0.3, -0.8, 2.0]),
        jax.random.key(4),
    )
    noise = jax.random.logistic(jax.random.split(key, 1)[0], (3,), float)
    soft = jax.nn.sigmoid((scores + noise) / temperature)
    slope = jax.grad(lambda scores: rule.start({"w": scores}, None, key)["w"].sum())(scores)
    np.testing.assert_allclose(slope, soft * (1 - soft) / temperature, rtol=1e-12)
    np.testing.assert_array_equal(rule.start({"w": scores}, None, key)["w"], soft >= 0.5)


def test_settings_and_layers_that_mean_nothing():
    for options, words in (({"per": "layer"}, "per='layer'"), ({"temperature": 0.0}, "temperature=0.0")):
        with pytest.raises(ValueError, match=f"subspace_sgd: {words}"):
            subspace_sgd(0.1, **options)
    init = functools.partial(subspace_sgd(0.1).init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"the arrays of a are \(3,\), \(3, 2\); expected one last axis"):
        init({"a": {"bias": jnp.zeros(3), "kernel": jnp.zeros((3, 2))}})
