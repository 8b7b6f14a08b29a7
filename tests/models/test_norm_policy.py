"""The four normalization policies, on networks of ours and of a user's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jmeta.models.conv4 import conv4
from jmeta.models.norm_policy import (
    apply_with_norm,
    check_norm,
    set_step_state,
    stack_state,
    step_state,
    support_state,
)
from jmeta.models.wrap import from_linen


class UserNet(nn.Module):
    momentum: float = 0.99

    @nn.compact
    def __call__(self, x, *, train, mask=None):
        where = None if mask is None else mask.astype(bool)[:, None]
        for width in (8, 4):
            x = nn.Dense(width)(x)
            x = nn.tanh(nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(x, mask=where))
        calls = self.variable("counter", "calls", lambda: jnp.zeros((), jnp.int32))
        if train:
            calls.value = calls.value + 1
        return x


def _user(momentum=0.99):
    model = from_linen(UserNet(momentum))
    x = 3 + 5 * jax.random.normal(jax.random.key(1), (7, 6), jnp.float32)
    params, state = model.init(jax.random.key(0), x)
    return model, params, state, x


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_support_statistics_whatever_the_momentum(momentum):
    model, params, state, x = _user(momentum)
    averages = support_state(model, params, state, x)
    as_batch = model.apply(params, state, x, train=True)[0]
    as_support, unchanged = apply_with_norm(model, "support", params, averages, x, train=True)
    np.testing.assert_allclose(as_support, as_batch, atol=2e-5)
    assert unchanged is averages
    assert averages["counter"]["calls"] == state["counter"]["calls"]
    first = nn.Dense(8).apply({"params": params["Dense_0"]}, x)
    np.testing.assert_allclose(averages["batch_stats"]["BatchNorm_0"]["mean"], first.mean(0), rtol=1e-4)
    np.testing.assert_allclose(averages["batch_stats"]["BatchNorm_0"]["var"], first.var(0), rtol=1e-4)


def test_support_statistics_leave_padding_out():
    model, params, state, x = _user()
    padded = jnp.concatenate([x, 100 * jnp.ones((2, 6), x.dtype)])
    mask = jnp.array([1] * 7 + [0] * 2)
    averages = support_state(model, params, state, padded, mask=mask)
    expected = support_state(model, params, state, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), averages, expected)


def test_a_query_does_not_see_the_other_queries_under_support():
    model, params, state, x = _user()
    averages = support_state(model, params, state, x)
    query = x[::-1] * 2
    together = apply_with_norm(model, "support", params, averages, query, train=False)[0]
    alone = apply_with_norm(model, "support", params, averages, query[:1], train=False)[0]
    np.testing.assert_allclose(together[:1], alone, atol=1e-6)


def test_support_statistics_carry_the_gradient_of_the_support_set():
    model, params, state, x = _user(0.9)
    params, state, x = jax.tree.map(
        lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, (params, state, x)
    )

    def through_state(params):
        averages = support_state(model, params, state, x)
        return jnp.square(model.apply(params, averages, x, train=False)[0][:, 0]).mean()

    def through_batch(params):
        return jnp.square(model.apply(params, state, x, train=True)[0][:, 0]).mean()

    slopes = jax.grad(through_state)(params), jax.grad(through_batch)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), *slopes)


def test_statistics_and_state_of_each_policy():
    model, params, state, x = _user()
    trained, updated = model.apply(params, state, x, train=True)
    evaluated = model.apply(params, state, x, train=False)[0]
    for train in (True, False):
        outputs, new_state = apply_with_norm(model, "batch", params, state, x, train=train)
        np.testing.assert_array_equal(outputs, trained)
        assert new_state is state
    for norm in ("running", "per_step"):
        outputs, new_state = apply_with_norm(model, norm, params, state, x, train=True)
        np.testing.assert_array_equal(outputs, trained)
        jax.tree.map(np.testing.assert_array_equal, new_state, updated)
        outputs, new_state = apply_with_norm(model, norm, params, state, x, train=False)
        np.testing.assert_array_equal(outputs, evaluated)
        assert new_state is state


def test_per_step_statistics_are_one_entry_a_step():
    model, params, state, x = _user()
    stack = stack_state(state, 3)
    _, entry = model.apply(params, state, x, train=True)
    stack = jax.jit(set_step_state)(stack, 1, entry)
    jax.tree.map(np.testing.assert_array_equal, step_state(stack, 1), entry)
    jax.tree.map(np.testing.assert_array_equal, step_state(stack, 0), state)
    jax.tree.map(np.testing.assert_array_equal, step_state(stack, 9), step_state(stack, 2))
    beyond = set_step_state(stack, 9, entry)
    jax.tree.map(np.testing.assert_array_equal, step_state(beyond, 2), entry)


def test_conv4_under_support_statistics():
    model = conv4(filters=4)
    x = jax.random.normal(jax.random.key(0), (5, 16, 16, 1), jnp.float32)
    params, state = model.init(jax.random.key(1), x)
    averages = support_state(model, params, state, x)
    outputs = apply_with_norm(model, "support", params, averages, x, train=True)[0]
    np.testing.assert_allclose(outputs, model.apply(params, state, x, train=True)[0], atol=1e-4)


def test_an_unknown_policy_is_refused():
    check_norm("support")
    with pytest.raises(ValueError, match="'layer'.*batch, support, running, per_step"):
        check_norm("layer")
