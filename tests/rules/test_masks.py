import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.inner.gradient import inner_loop
from jmeta.rules.masked_sgd import masked_sgd, rectified_sgd
from jmeta.rules.masks import sparsity, sparsity_by_layer, straight_through_relu


def test_a_mask_is_open_from_zero_on_and_has_the_identitys_derivative():
    scores = jnp.asarray([-1.0, -1e-6, 0.0, 2.0])
    np.testing.assert_array_equal(jmeta.straight_through(scores), [0.0, 0.0, 1.0, 1.0])
    assert jmeta.straight_through(scores.astype(jnp.float32)).dtype == jnp.float32
    factors = jnp.asarray([1.0, 2.0, 3.0, 4.0])
    slopes = jax.jit(jax.grad(lambda scores: (factors * jmeta.straight_through(scores)).sum()))(scores)
    np.testing.assert_array_equal(slopes, factors)


def test_straight_through_relu_too():
    scores = jnp.asarray([-1.0, 0.0, 2.0])
    value, slopes = jax.value_and_grad(
        lambda s: (straight_through_relu(s) * jnp.asarray([5.0, 6.0, 7.0])).sum()
    )(scores)
    assert value == 14.0
    np.testing.assert_array_equal(slopes, [5.0, 6.0, 7.0])


def test_sparsity_is_the_share_held_still():
    assert sparsity(jnp.asarray([[-1.0, 0.5], [0.0, 2.0]])) == 0.5


def test_sparsity_by_layer_counts_from_the_input_on_and_passes_over_layers_without_masks():
    scores = {
        "head": {"kernel": jnp.array([1.0, -1.0]), "bias": jnp.array([-1.0])},
        "conv_1": {"kernel": jnp.array([1.0, 1.0, 1.0, -1.0]), "bias": jnp.array([1.0])},
        "conv_0": {"kernel": jnp.array([-1.0, -1.0]), "bias": jnp.array([0.0])},
        "norm_0": {"scale": None, "bias": None},
    }
    shares = {name: float(value) for name, value in sparsity_by_layer(scores).items()}
    assert shares == {
        "sparsity/W1": 1.0, "sparsity/b1": 1.0, "sparsity/W2": 0.25, "sparsity/b2": 0.0,
        "sparsity/W3": 0.5, "sparsity/b3": 1.0, "sparsity": pytest.approx(6 / 11),
    }  # fmt: skip


def test_masked_descent_moves_what_is_let_through_and_learns_what_to_hold():
    """Gradient of the scores: - rate * G * S, for a mask and for a rectified rate; eq. 5 by hand."""
    params, target = {"w": jnp.array([1.0, -2.0, 3.0])}, jnp.array([0.5, 1.0, 2.0])
    scores = {"w": jnp.array([0.3, -0.1, 0.0])}
    for rule, rates in (
        (masked_sgd(0.1), 0.1 * np.array([1.0, 0.0, 1.0])),
        (rectified_sgd(0.1), np.array([0.3, 0.0, 0.0])),
    ):

        def outer(hyper, rule=rule):
            fast, _ = inner_loop(
                lambda p, step: 0.5 * jnp.square(p["w"] - target).sum(), rule, hyper, params, 2, order="first"
            )
            return (fast["w"] ** 3).sum(), fast["w"]

        slope, fast = jax.grad(outer, has_aux=True)(scores)
        w, total = np.asarray(params["w"]), np.zeros(3)
        for _ in range(2):
            total, w = total + (w - target), w - rates * (w - target)
        np.testing.assert_allclose(fast, w)
        scale = 0.1 if rates[0] == 0.1 else 1.0
        np.testing.assert_allclose(slope["w"], -scale * 3 * w**2 * total)


def test_scores_start_half_closed_in_the_released_codes_ranges():
    params = {"kernel": jnp.zeros((3, 3, 16, 32)), "bias": jnp.zeros(500)}
    scores = masked_sgd(0.1).init(jax.random.key(0), params)
    bounds = {"kernel": (6 / (9 * 16)) ** 0.5, "bias": 0.5}
    for name, bound in bounds.items():
        values = np.asarray(scores[name])
        assert abs(values.mean()) < 1e-6 and 0.9 * bound < np.abs(values).max() < 1.1 * bound
        assert abs((values < 0).mean() - 0.5) < 0.05
    assert (rectified_sgd(0.1).init(jax.random.key(0), params)["kernel"] == 0.1).all()
