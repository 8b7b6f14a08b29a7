"""Losses: labels out of range, masks as weights, number types, shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.losses import masked_mean, summed_cross_entropy
from jmeta.memory.prototypes import Prediction, known_and_new_loss

LOSSES = {
    "cross_entropy": lambda logits, y, mask: jmeta.cross_entropy(logits, jmeta.Batch(None, y, mask)),
    "smoothed": lambda logits, y, mask: jmeta.cross_entropy(
        logits, jmeta.Batch(None, y, mask), smoothing=0.1
    ),
    "summed": lambda logits, y, mask: summed_cross_entropy(logits, jmeta.Stream(None, y, y, mask)),
    "known_and_new": lambda logits, y, mask: known_and_new_loss(
        Prediction(logits, logits[:, 0]), jmeta.Stream(None, y, y, mask)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("y", [[0, 3, 1], [0, -1, 2], [7, 7, 7], [-1, -1, -1]])
def test_a_label_out_of_range_is_never_finite(name, y):
    """Traced: value and the whole gradient are NaN, unless the example is padding. Concrete: one sentence."""
    loss, logits, y = LOSSES[name], jnp.arange(9.0).reshape(3, 3) / 9, jnp.array(y)
    value, grads = jax.jit(jax.value_and_grad(loss))(logits, y, None)
    assert np.isnan(value) and np.isnan(grads).any(1).all()
    valid = (y >= 0) & (y < 3)
    value, grads = jax.jit(jax.value_and_grad(loss))(logits, y, valid.astype(float))
    assert np.isfinite(value) and np.isfinite(grads).all()
    with pytest.raises(ValueError, match=rf"labels (run from|is) .*{int(y[1])}.*; expected 0..2"):
        loss(logits, y, None)
    loss(logits, y, valid.astype(float))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_reported_in_float32_and_gradients_in_the_type_of_the_outputs(name):
    logits = jax.random.normal(jax.random.key(0), (64, 5), jnp.bfloat16)
    y = jnp.arange(64) % 5
    value, grads = jax.value_and_grad(LOSSES[name])(logits, y, None)
    assert value.dtype == jnp.float32 and grads.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, LOSSES[name](logits.astype(jnp.float32), y, None), rtol=1e-6)


@pytest.mark.parametrize("mask", [[0.5, 0.0, 0.0], [0.25, 0.25, 0.25], [1.0, 0.5, 0.0], [3.0, 1.0, 0.0]])
def test_a_fractional_mask_weighs(mask):
    """Of equal logits the loss is ln 5, whatever the weights add up to."""
    batch = jmeta.Batch(None, jnp.array([0, 1, 2]), jnp.array(mask))
    np.testing.assert_allclose(jmeta.cross_entropy(jnp.zeros((3, 5)), batch), np.log(5))
    values = jnp.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(masked_mean(values, batch.mask), np.average(values, weights=mask))


def test_the_mean_of_nothing_is_zero_and_so_is_its_gradient():
    batch = jmeta.Batch(None, jnp.array([0, 9]), jnp.zeros(2))
    value, grads = jax.value_and_grad(lambda z: jmeta.cross_entropy(z, batch))(jnp.ones((2, 3)))
    assert value == 0 and (grads == 0).all()


def test_targets_with_trailing_axes_are_averaged_before_they_are_weighed():
    outputs, y = jnp.arange(12.0).reshape(2, 3, 2), jnp.zeros((2, 3, 2))
    batch = jmeta.Batch(None, y, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(jmeta.mean_squared_error(outputs, batch), np.square(np.arange(6.0)).mean())


@pytest.mark.parametrize(
    "outputs, y",
    [((3, 5), None), ((3, 5), {"a": 1}), ((3, 5), (3, 1)), ((3, 5), (5,)), (None, (3,))],
)
def test_outputs_and_labels_that_do_not_fit(outputs, y):
    outputs = {"logits": jnp.zeros((3, 5))} if outputs is None else jnp.zeros(outputs)
    y = jnp.zeros(y, int) if isinstance(y, tuple) else y
    for loss in (jmeta.cross_entropy, jmeta.accuracy, jmeta.mean_squared_error):
        with pytest.raises(ValueError, match="do not fit|differ"):
            loss(outputs, jmeta.Batch(None, y, None))


def test_a_mask_of_another_shape():
    with pytest.raises(ValueError, match=r"mask of shape \(3, 1\) for 3 examples"):
        jmeta.cross_entropy(jnp.zeros((3, 5)), jmeta.Batch(None, jnp.zeros(3, int), jnp.ones((3, 1))))
