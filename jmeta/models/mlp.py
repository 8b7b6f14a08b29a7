"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.init import Initialization, bias_initializer, kernel_initializer
from jmeta.models.inputs import on_arrays
from jmeta.models.wrap import from_linen
from jmeta.types import Array, Model, PyTree


def dense(width: int, initialize: Initialization, x: Array, *, name: str) -> Array:
    """Apply a linear layer of `width` units to `x` [..., input], inside a linen module's compact method."""
    kernel_init = kernel_initializer(initialize)
    bias_init = bias_initializer(initialize, x.shape[-1])
    return nn.Dense(width, dtype=x.dtype, kernel_init=kernel_init, bias_init=bias_init, name=name)(x)


class _MLP(nn.Module):
    widths: tuple[int, ...]
    outputs: int | None
    activation: Callable[[Array], Array]
    normalize_features: bool
    initialize: Initialization

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1)  # [example, input]
        for layer, width in enumerate(self.widths):
            x = self.activation(dense(width, self.initialize, x, name=f"dense_{layer}"))
        if self.normalize_features:
            x = x / jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))
        return x if self.outputs is None else dense(self.outputs, self.initialize, x, name="head")


def mlp(
    *,
    widths: Sequence[int] = (40, 40),
    outputs: int | None = None,
    activation: Callable[[Array], Array] = nn.relu,
    normalize_features: bool = False,
    initialize: Initialization = "lecun_normal",
) -> Model:
    """Build dense layers of `widths`, each followed by `activation`, and a linear layer of `outputs`.

    Inputs [example, ...], vectors or images, are flattened; the result is [example, outputs], or the last
    hidden layer if `outputs` is None. The defaults are MAML's network for sinusoids (Finn et al. 2017) less
    its output.

    Args:
      widths: units of the hidden layers.
      outputs: units of the last, linear layer.
      activation: the nonlinearity of the hidden layers.
      normalize_features: divide the last hidden layer by the square root of its width.
      initialize: see `jmeta.models.init.kernel_initializer`.
    """
    return on_arrays(
        "mlp", from_linen(_MLP(tuple(widths), outputs, activation, normalize_features, initialize))
    )


def after_first_layer(
    params: PyTree, products: Array, *, activation: Callable[[Array], Array] = nn.relu
) -> Array:
    """Apply an `mlp` with an output layer to the products of its inputs and first kernel.

    Args:
      params: the network's parameters; the first kernel, params["dense_0"]["kernel"], is not read.
      products: [example, unit] of the first layer.
      activation: the network's.

    Returns:
      The network's outputs [example, outputs].
    """
    x = activation(products + params["dense_0"]["bias"][None])
    for layer in range(1, len(params) - 1):
        weights = params[f"dense_{layer}"]
        x = activation(x @ weights["kernel"] + weights["bias"][None])
    return x @ params["head"]["kernel"] + params["head"]["bias"][None]
