"""A task's own horizon on a padded support set, against its closed form in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.adapters.heads.comln import comln_head
from jmeta.types import Batch

WAY, SIZE, SMOOTHING = 4, 3, 0.2


def test_padding_and_absent_ways_leave_the_horizon_alone():
    """log T = log_horizon + v . (log loss, log |gradient|^2, log mean |z|^2) at W0, over real examples."""
    random = np.random.default_rng(0)
    z, y = random.normal(size=(5, SIZE)), np.array([0, 2, 2, 0, 1])
    real, ways = np.array([0, 1, 2, 3]), np.array([0, 2])
    head = comln_head(WAY, task_horizon=True, label_smoothing=SMOOTHING)
    meta = head.init(jax.random.key(0), jnp.asarray(z))
    meta |= {"log_horizon": jnp.float64(0.3), "horizon_weights": jnp.asarray([0.5, -0.4, 0.2])}
    present = jnp.zeros(WAY, bool).at[ways].set(True)
    padded = Batch(jnp.asarray(z).at[4].set(7.0), jnp.asarray(y), jnp.asarray([1.0, 1, 1, 1, 0]))
    horizon = jax.jit(lambda meta: head.fit(meta, padded, None, present=present, train=True)[1]["horizon"])

    logits = z[real] @ np.asarray(meta["w0"])[ways].T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (1 - SMOOTHING) * (y[real, None] == ways) + SMOOTHING / len(ways)
    loss = -(labels * np.log(p)).sum(1).mean()
    gradient = (p - labels).T @ z[real] / len(real)
    square = (z[real] ** 2).sum(1).mean()
    log_horizon = 0.3 + np.array([0.5, -0.4, 0.2]) @ np.log([loss, (gradient**2).sum(), square])
    np.testing.assert_allclose(np.log(horizon(meta)), log_horizon, rtol=1e-9)
