"""Recurrent cells as pure functions: LSTM and ConvLSTM, whose gates are the same.

A cell is split in two: the product with the inputs can be computed for all time steps at once, and
`apply_gates` takes its sum with the contribution of the hidden state.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key


class Cell(NamedTuple):
    """Weights of a cell, for the pre-activations of its gates (input, forget, candidate, output).

    `inputs` [..., in, 4 hidden], `recurrent` [..., hidden, 4 hidden] and `bias` [4 hidden]. The kernels of a
    ConvLSTM begin with two axes of space.
    """

    inputs: Array
    recurrent: Array
    bias: Array


def apply_gates(gates: Array, state: Array) -> tuple[Array, Array]:
    """Take one step of an LSTM from its pre-activations: (output, state) [..., hidden].

    `gates` [..., 4 hidden] are those of input, forget, candidate and output; no peepholes (Babu et al. 2021,
    equations 1 to 5).
    """
    # each [..., hidden]
    accept, forget, candidate, emit = jnp.split(gates, 4, axis=-1)
    state = jax.nn.sigmoid(forget) * state + jax.nn.sigmoid(accept) * jnp.tanh(candidate)
    return jax.nn.sigmoid(emit) * jnp.tanh(state), state


def lstm_cell(key: Key, inputs: int, hidden: int, dtype: jnp.dtype) -> Cell:
    """Draw the weights of an LSTM.

    LeCun-normal from the inputs, orthogonal for each gate from the hidden state; biases are 1 for the forget
    gate and 0 otherwise.
    """
    key_inputs, key_recurrent = jax.random.split(key)
    from_inputs = jax.nn.initializers.lecun_normal()(key_inputs, (inputs, 4 * hidden), dtype)
    return Cell(from_inputs, _orthogonal(key_recurrent, (hidden, hidden), dtype), _bias(hidden, dtype))


def conv_lstm_cell(key: Key, channels: int, hidden: int, dtype: jnp.dtype) -> Cell:
    """Draw the weights of a ConvLSTM, 3x3 kernels from `channels` to `hidden` channels, as in `lstm_cell`."""
    key_inputs, key_recurrent = jax.random.split(key)
    from_inputs = jax.nn.initializers.lecun_normal()(key_inputs, (3, 3, channels, 4 * hidden), dtype)
    return Cell(from_inputs, _orthogonal(key_recurrent, (3, 3, hidden, hidden), dtype), _bias(hidden, dtype))


def _orthogonal(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Draw four orthogonal kernels of this shape, side by side on the last axis."""
    kernels = [jax.nn.initializers.orthogonal()(k, shape, dtype) for k in jax.random.split(key, 4)]
    return jnp.concatenate(kernels, axis=-1)


def _bias(hidden: int, dtype: jnp.dtype) -> Array:
    return jnp.zeros(4 * hidden, dtype).at[hidden : 2 * hidden].set(1)
