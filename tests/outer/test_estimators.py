"""Clipped task gradients, against the gradient by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta.outer.estimators import clip_task_gradients
from jmeta.types import Adapter, Batch, Task


def _adapter():
    """Predicts x * meta["params"] * meta["rule"]; nothing adapts."""
    meta = {"params": jnp.array(2.0), "rule": jnp.array(3.0)}
    return Adapter(
        init=lambda key, x: (meta, {}),
        adapt=lambda meta, state, support, key, *, train: (None, state, {}),
        predict=lambda meta, fast, state, x, key, *, train, mask: (x * meta["params"] * meta["rule"], state),
    )


@pytest.mark.parametrize("within", [None, "params"])
def test_each_task_is_clipped_before_the_sum(within):
    x = jnp.array([[[1.0]], [[0.1]], [[-1.0]]])
    batch = Batch(x, jnp.zeros_like(x))
    learner = jmeta.learner(
        _adapter(), lambda outputs, batch: outputs.sum(), optax.sgd(1.0), reduce="sum",
        task_grad=clip_task_gradients(1.5, within=within),
    )  # fmt: skip
    state = learner.init(jax.random.key(0), x[0])
    after, _ = learner.step(state, Task(batch, batch))
    # d/dparams = 3 x, clipped: 1.5, 0.3, -1.5; d/drule = 2 x: 2, 0.2, -2, clipped 1.5, 0.2, -1.5
    np.testing.assert_allclose(state.meta["params"] - after.meta["params"], 0.3, rtol=1e-12)
    np.testing.assert_allclose(state.meta["rule"] - after.meta["rule"], 0.2, rtol=1e-12)
    lopsided = Task(*(jax.tree.map(lambda a: a[:2], part) for part in (batch, batch)))
    after, _ = learner.step(state, lopsided)
    np.testing.assert_allclose(state.meta["params"] - after.meta["params"], 1.8, rtol=1e-12)
    np.testing.assert_allclose(state.meta["rule"] - after.meta["rule"], 2.2 if within else 1.7, rtol=1e-12)


def test_a_limit_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        clip_task_gradients(0.0)


def test_the_entry_to_clip_must_be_there():
    learner = jmeta.learner(
        _adapter(),
        lambda outputs, batch: outputs.sum(),
        optax.sgd(1.0),
        task_grad=clip_task_gradients(1.0, within="head"),
    )
    batch = Batch(jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1)))
    state = learner.init(jax.random.key(0), batch.x[0])
    with pytest.raises(ValueError, match="within='head'; the meta-parameters are 'params', 'rule'"):
        learner.step(state, Task(batch, batch))
