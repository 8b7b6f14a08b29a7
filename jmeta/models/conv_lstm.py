"""A ConvLSTM cell in place of a convolution (Babu, Savarese & Maire, NeurIPS 2021, section 4.5).

The paper does not give the number of steps in which an image is seen: one here, from zero state.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.cells import conv_lstm_cell
from jmeta.models.conv import convolution_primitive, convolve
from jmeta.types import Array


class ConvLSTM(nn.Module):
    """The first step of a ConvLSTM cell on an image.

    From zero output and state, h = sigmoid(W_o x) tanh(sigmoid(W_i x) tanh(W_g x)): the forget gate and the
    recurrent kernels are parameters of the cell without a gradient. `stride` is that of the convolution of
    the image.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map images [image, height, width, in] to [image, height, width, features]."""
        cell = self.param("cell", conv_lstm_cell, x.shape[-1], self.features, x.dtype)
        kernels = jnp.split(cell.inputs, 4, axis=-1)  # four of [3, 3, in, features]
        biases = jnp.split(cell.bias, 4)  # four of [features]
        without_forget = [0, 2, 3]
        kernel = jnp.concatenate([kernels[gate] for gate in without_forget], axis=-1)
        bias = jnp.concatenate([biases[gate] for gate in without_forget])
        # [image, height, width, 3 features]
        gates = convolve(x, kernel, primitive=convolution_primitive("shared"), stride=self.stride)
        accept, candidate, emit = jnp.split(gates + jnp.broadcast_to(bias, gates.shape), 3, axis=-1)
        return jax.nn.sigmoid(emit) * jnp.tanh(jax.nn.sigmoid(accept) * jnp.tanh(candidate))
