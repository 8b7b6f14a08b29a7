"""Initial kernels and biases, by name."""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmeta.types import Array

Initialization = Literal["lecun_normal", "uniform", "he_normal", "glorot_uniform", "pytorch"]


def kernel_initializer(name: Initialization) -> nn.initializers.Initializer:
    """Return the initializer of kernels.

    Args:
      name: "lecun_normal" (flax's default); "uniform" within 1/sqrt(fan in); "he_normal" with standard
        deviation sqrt(2 / fan in); "glorot_uniform" (Xavier); or "pytorch", which is "uniform" for kernels
        and biases.

    Raises:
      ValueError: for another name.
    """
    if name == "lecun_normal":
        return nn.initializers.lecun_normal()
    if name in ("uniform", "pytorch"):
        return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    if name == "he_normal":
        return nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    if name == "glorot_uniform":
        return nn.initializers.glorot_uniform()
    choices = ", ".join(map(repr, get_args(Initialization)))
    raise ValueError(f"initialize is {name!r}; choose one of {choices}")


def bias_initializer(name: Initialization, fan_in: int) -> nn.initializers.Initializer:
    """Return the initializer of biases: zeros, or uniform within 1/sqrt(`fan_in`) for "pytorch"."""
    if name != "pytorch":
        return nn.initializers.zeros
    bound = fan_in**-0.5

    def uniform(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return uniform
