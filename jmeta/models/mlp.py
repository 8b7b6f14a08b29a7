"""Fully connected networks, and the network that does nothing (for precomputed embeddings)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.bridge import from_linen, from_pair
from jmeta.types import Array, Model


class _MLP(nn.Module):
    widths: tuple[int, ...]
    outputs: int | None
    activation: Callable[[Array], Array]
    normalise_features: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1)
        for layer, width in enumerate(self.widths):
            x = self.activation(nn.Dense(width, dtype=x.dtype, name=f"dense_{layer}")(x))
        if self.normalise_features:
            x = x / jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))
        return x if self.outputs is None else nn.Dense(self.outputs, dtype=x.dtype, name="head")(x)


def mlp(
    *,
    widths: Sequence[int] = (40, 40),
    outputs: int | None = None,
    activation: Callable[[Array], Array] = nn.relu,
    normalise_features: bool = False,
) -> Model:
    """Dense layers of `widths`, each followed by `activation`, then a linear layer of `outputs` where given.

    Inputs [example, ...] are flattened; the result is [example, outputs or last width]. The defaults are
    MAML's network for sinusoids (Finn et al. 2017) less its output. `normalise_features` divides the last
    hidden layer by the square root of its width.
    """
    return from_linen(_MLP(tuple(widths), outputs, activation, normalise_features))


def identity() -> Model:
    """The model without parameters whose output is its input: features [example, d] to the same."""
    return from_pair(lambda key, x: {}, lambda params, x: x)
