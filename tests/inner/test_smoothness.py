"""The probe for rules without a finite derivative at a zero gradient."""

import jax.numpy as jnp
import optax
import pytest

import jmeta
from jmeta.inner.smoothness import require_smooth

PARAMS = {"w": jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.asarray([0.25, -0.75])}


def test_the_probe_finds_what_has_no_derivative_at_zero():
    for tx in (
        optax.adam(1e-3),
        optax.adamw(1e-3),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1)),
    ):
        with pytest.raises(ValueError, match="no finite derivative at a zero gradient"):
            require_smooth(jmeta.from_optax(tx), (), PARAMS)
    for tx in (optax.adam(1e-3, eps_root=1e-8), optax.sgd(0.1, momentum=0.9, nesterov=True)):
        require_smooth(jmeta.from_optax(tx), (), PARAMS)
