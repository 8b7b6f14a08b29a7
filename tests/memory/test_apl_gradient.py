"""APL's distances are constants: the gradient reaches an example by its own features alone."""

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta.memory.apl import apl

WAY, SIZE, LABEL = 5, 3, 32  # LABEL: size of a label's embedding


def test_no_gradient_through_the_distances():
    """With a decoder that does not look at the query's features, only distances tell queries apart."""
    stored = jax.random.normal(jax.random.key(0), (4, SIZE), jnp.float64)
    memory = apl(WAY, jmeta.mlp(widths=()), slots=4, neighbors=2)
    params, _ = jax.jit(memory.init)(jax.random.key(1), stored)
    # tokens [stored features, embedding of its label, query's features, weight; width]
    query = slice(SIZE + LABEL, 2 * SIZE + LABEL)
    blind = params._replace(tokens=params.tokens.at[query].set(0))
    carry = memory.carry(params, (stored, jnp.zeros(4, jnp.int32)))
    carry = carry._replace(features=stored, labels=jnp.arange(4, dtype=jnp.int32))

    def logit(params, features):
        return memory.step(params, carry, (features, jnp.int32(-1)))[1][0]

    value_and_grad = jax.jit(jax.value_and_grad(logit, 1))
    features = stored[1] + 0.3
    value, gradient = value_and_grad(blind, features)
    np.testing.assert_array_equal(gradient, 0)
    assert abs(value_and_grad(blind, features + 0.1)[0] - value) > 1e-4
    assert np.abs(value_and_grad(params, features)[1]).min() > 0
