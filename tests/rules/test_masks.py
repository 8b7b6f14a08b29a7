import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta.rules.masks import sparsity, straight_through_relu


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
