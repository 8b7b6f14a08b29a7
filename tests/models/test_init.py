"""Initial kernels and biases, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.models.conv import Conv
from jmeta.models.init import kernel_initializer


def test_pytorchs_initialization_is_uniform_in_kernels_and_biases():
    """Within 1/sqrt(fan in), biases too, and filling that range; other initializers leave biases at zero."""
    x, conv = jnp.zeros((1, 5, 5, 4), jnp.float64), Conv(features=400, initialize="pytorch")
    params = conv.init(jax.random.key(0), x)["params"]
    bound = (9 * 4) ** -0.5
    for name in ("kernel", "bias"):
        values = np.asarray(params[name])
        assert 0.97 * bound < np.abs(values).max() <= bound
        np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.1)
    plain = Conv(features=4, initialize="uniform").init(jax.random.key(0), x)["params"]
    assert not plain["bias"].any()


def test_an_unknown_initialization_is_refused():
    with pytest.raises(ValueError, match="initialize is 'zeros'; choose one of 'lecun_normal'"):
        kernel_initializer("zeros")
