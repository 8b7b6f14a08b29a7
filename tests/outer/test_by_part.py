import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta


def test_learned_parts_of_a_rule_have_an_optimizer_of_their_own_wherever_they_are():
    meta = {"body": {"w": jnp.ones(2)}, "head": {"rule": {"m": jnp.ones(3)}, "params": {"w": jnp.ones(1)}}}
    tx = jmeta.by_part(optax.chain(optax.clip(0.5), optax.sgd(0.1)), optax.sgd(1.0))
    head = {"rule": {"m": jnp.full(3, 3.0)}, "params": {"w": jnp.full(1, 0.2)}}
    grads = {"body": {"w": jnp.full(2, 3.0)}, "head": head}
    updates, _ = tx.update(grads, tx.init(meta), meta)
    np.testing.assert_allclose(updates["body"]["w"], [-0.05, -0.05])  # clipped
    np.testing.assert_allclose(updates["head"]["params"]["w"], [-0.02])
    np.testing.assert_allclose(updates["head"]["rule"]["m"], [-3.0] * 3)  # not clipped


def test_a_rule_that_learns_nothing_needs_none():
    with pytest.raises(ValueError, match="learns nothing; give one optimizer"):
        jmeta.by_part(optax.sgd(0.1), optax.sgd(0.1)).init({"params": {"w": jnp.ones(2)}, "rule": ()})
