"""Fully connected networks, and the network that does nothing (for precomputed embeddings)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.bridge import from_linen, from_pair
from jmeta.models.layers import Initialise, dense
from jmeta.types import Array, Model, PyTree


class _MLP(nn.Module):
    widths: tuple[int, ...]
    outputs: int | None
    activation: Callable[[Array], Array]
    normalise_features: bool
    initialise: Initialise

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1)
        for layer, width in enumerate(self.widths):
            x = self.activation(dense(width, self.initialise, x, name=f"dense_{layer}"))
        if self.normalise_features:
            x = x / jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))
        return x if self.outputs is None else dense(self.outputs, self.initialise, x, name="head")


def mlp(
    *,
    widths: Sequence[int] = (40, 40),
    outputs: int | None = None,
    activation: Callable[[Array], Array] = nn.relu,
    normalise_features: bool = False,
    initialise: Initialise = "lecun_normal",
) -> Model:
    """Dense layers of `widths`, each followed by `activation`, then a linear layer of `outputs` where given.

    Inputs [example, ...] are flattened; the result is [example, outputs or last width]. The defaults are
    MAML's network for sinusoids (Finn et al. 2017) less its output. `normalise_features` divides the last
    hidden layer by the square root of its width; `initialise`: see `jmeta.models.layers.kernel_initialiser`.
    """
    return from_linen(_MLP(tuple(widths), outputs, activation, normalise_features, initialise))


def after_first_layer(
    params: PyTree, products: Array, *, activation: Callable[[Array], Array] = nn.relu
) -> Array:
    """What an `mlp` with an output layer makes of the products of inputs and first kernel, [example, unit].

    `params` are the network's; the first kernel itself, params["dense_0"]["kernel"], is not looked at.
    Returns [example, outputs].
    """
    x = activation(products + params["dense_0"]["bias"][None])
    for layer in range(1, len(params) - 1):
        dense = params[f"dense_{layer}"]
        x = activation(x @ dense["kernel"] + dense["bias"][None])
    return x @ params["head"]["kernel"] + params["head"]["bias"][None]


def identity() -> Model:
    """The model without parameters whose output is its input: features [example, d] to the same."""
    return from_pair(lambda key, x: {}, lambda params, x: x)
