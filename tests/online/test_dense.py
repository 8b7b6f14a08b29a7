import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.models.mlp import after_first_layer
from jmeta.online.dense import dense_look_ahead, dense_past_gradients, dense_steps
from jmeta.online.gem import past_gradients
from jmeta.online.mer import example_steps
from jmeta.online.meta_replay import look_ahead
from jmeta.online.sgd_state import concatenate_batches, params_loss
from jmeta.types import Batch


@pytest.mark.parametrize("meta_loss", ["mean", "last"])
def test_a_dense_first_layer_looks_ahead_to_the_same_numbers(meta_loss):
    random = np.random.default_rng(0)
    model = jmeta.mlp(widths=(7, 5), outputs=3)
    x = jnp.asarray(random.normal(size=(9, 6)))
    params = jax.jit(model.init)(jax.random.key(0), x)[0]
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), params)
    rates = jax.tree.map(lambda leaf: jnp.asarray(random.uniform(-0.1, 0.4, leaf.shape)), params)
    labels = jnp.asarray(random.integers(0, 3, 9))
    batch = Batch(x[5:], labels[5:])
    judged = concatenate_batches(Batch(x[:5], labels[:5], jnp.asarray([1.0, 1, 1, 0, 0])), batch)
    plain = params_loss(model, jmeta.cross_entropy)
    ahead = dense_look_ahead(after_first_layer, jmeta.cross_entropy)
    theirs = jax.jit(lambda: look_ahead(plain, params, rates, batch, judged, meta_loss))()
    ours = jax.jit(lambda: ahead(params, rates, batch, judged, meta_loss))()
    assert jax.tree.structure(ours.grads) == jax.tree.structure(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, theirs)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(ours.rate_grads))


def test_a_dense_first_layer_takes_the_same_steps():
    random = np.random.default_rng(1)
    model = jmeta.mlp(widths=(7, 5), outputs=3)
    x = jnp.asarray(random.normal(size=(6, 4)))
    params = jax.jit(model.init)(jax.random.key(0), x)[0]
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), params)
    batch = Batch(x, jnp.asarray(random.integers(0, 3, 6)), jnp.asarray([1.0, 1, 0, 1, 1, 0]))
    theirs = jax.jit(lambda: example_steps(params_loss(model, jmeta.cross_entropy), params, 0.3, batch))()
    ours = jax.jit(lambda: dense_steps(after_first_layer, jmeta.cross_entropy)(params, 0.3, batch))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, theirs)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), ours[0], params)
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_a_dense_first_layer_has_the_same_past_gradients():
    random = np.random.default_rng(2)
    model = jmeta.mlp(widths=(7, 5), outputs=3)
    x = jnp.asarray(random.normal(size=(4, 3, 6)))
    params = jax.jit(model.init)(jax.random.key(0), x[0])[0]
    params, gradient = (
        jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), params) for _ in range(2)
    )
    mask = jnp.asarray([[1.0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 0, 0]])
    examples = Batch(x, jnp.asarray(random.integers(0, 3, (4, 3))), mask)

    def numbers(past):
        rows = past.rows(params, examples, past.prepare(examples))
        return rows.along(gradient), rows.gram(), rows.combine(jnp.asarray([0.5, -1.0, 3.0, 2.0]))

    theirs = jax.jit(lambda: numbers(past_gradients(params_loss(model, jmeta.cross_entropy))))()
    ours = jax.jit(lambda: numbers(dense_past_gradients(after_first_layer, jmeta.cross_entropy)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, theirs)
    np.testing.assert_array_equal(np.diagonal(theirs[1]) > 1e-3, [True, True, False, True])
