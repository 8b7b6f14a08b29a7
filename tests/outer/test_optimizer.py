"""The outer optimizers against their updates by hand."""

import jax.numpy as jnp
import numpy as np

from jmeta.outer.optimizer import optimizer, step_schedule


def _updates(tx, params, *gradients):
    """The updates of consecutive gradients, at parameters that stay."""
    state, updates = tx.init(params), []
    for gradient in gradients:
        update, state = tx.update(gradient, state, params)
        updates.append(update)
    return updates


def test_the_rate_changes_at_the_step_of_a_drop():
    schedule = step_schedule(0.1, ((20, 0.006), (40, 0.0012)))
    rates = [float(schedule(step)) for step in (0, 19, 20, 39, 40)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.006, 0.006, 0.0012], rtol=1e-7)


def test_sgd_has_nesterov_momentum_and_decays_arrays_alone():
    """v = 0.9 v + g, update -rate (g + 0.9 v), with g = gradient + decay w for arrays and not for scalars."""
    params = {"log_T": jnp.float64(2.0), "w": jnp.array([1.0, -2.0], jnp.float64)}
    gradients = [{"log_T": jnp.float64(g), "w": jnp.array([g, 1.0], jnp.float64)} for g in (0.5, -0.25)]
    first, second = _updates(optimizer("sgd", 0.1, weight_decay=0.01), params, *gradients)

    decay = {"log_T": 0.0, "w": 0.01}
    for name in params:
        w = np.asarray(params[name])
        g = [np.asarray(gradient[name]) + decay[name] * w for gradient in gradients]
        v = [g[0], 0.9 * g[0] + g[1]]
        np.testing.assert_allclose(first[name], -0.1 * (g[0] + 0.9 * v[0]), rtol=1e-12)
        np.testing.assert_allclose(second[name], -0.1 * (g[1] + 0.9 * v[1]), rtol=1e-12)


def test_a_limit_by_value_holds_for_each_entry_and_one_by_norm_for_all():
    gradient = {"a": jnp.array([30.0, -40.0], jnp.float64), "b": jnp.array([0.3], jnp.float64)}
    (by_value,) = _updates(optimizer("sgd", 1.0, momentum=0.0, clip_value=10.0), gradient, gradient)
    np.testing.assert_allclose(by_value["a"], [-10, 10])
    np.testing.assert_allclose(by_value["b"], [-0.3])
    (by_norm,) = _updates(optimizer("sgd", 1.0, momentum=0.0, clip_norm=10.0), gradient, gradient)
    norm = np.sqrt(30**2 + 40**2 + 0.3**2)
    np.testing.assert_allclose(by_norm["a"], np.array([-30, 40]) * 10 / norm, rtol=1e-12)
