"""Label smoothing in padded tasks, against NumPy."""

import jax.numpy as jnp
import numpy as np

from jmeta.losses import cross_entropy, mask_absent_ways, smooth_labels
from jmeta.types import Batch

SMOOTHING = 0.3
WAYS = np.array([0, 2, 3])  # of five
PRESENT = np.isin(np.arange(5), WAYS)


def test_a_label_is_spread_over_the_ways_of_its_task():
    labels = smooth_labels(jnp.array([2, 0]), jnp.asarray(PRESENT), SMOOTHING, jnp.float64)
    np.testing.assert_allclose(labels, [[0.1, 0, 0.8, 0.1, 0], [0.8, 0, 0.1, 0.1, 0]], rtol=1e-12)


def test_absent_ways_and_padding_have_no_part_in_the_loss():
    random = np.random.default_rng(0)
    logits, y, real = random.normal(size=(4, 5)), np.array([3, 0, 2, 1]), np.array([0, 1, 2])
    outputs = mask_absent_ways(jnp.asarray(logits), jnp.asarray(PRESENT))
    loss = cross_entropy(
        outputs, Batch(None, jnp.asarray(y), jnp.asarray([1.0, 1, 1, 0])), smoothing=SMOOTHING
    )

    seen = logits[real][:, WAYS]
    log_p = seen - np.log(np.exp(seen).sum(1, keepdims=True))
    labels = (1 - SMOOTHING) * (y[real, None] == WAYS) + SMOOTHING / len(WAYS)
    np.testing.assert_allclose(loss, -(labels * log_p).sum(1).mean(), rtol=1e-12)
