"""Recurrent cells as pure functions: LSTM and ConvLSTM, whose gates are the same.

A cell is split where time splits it: what depends on the inputs alone can be one product for all time steps;
`gated` takes it together with what the hidden state contributes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key


class Cell(NamedTuple):
    """Weights of a cell: `inputs` and `recurrent` lead to the pre-activations of the four gates (input,
    forget, candidate, output), [..., in, 4 hidden] and [..., hidden, 4 hidden]; `bias` [4 hidden]. The
    kernels of a ConvLSTM have two axes of space before these."""

    inputs: Array
    recurrent: Array
    bias: Array


def gated(gates: Array, state: Array) -> tuple[Array, Array]:
    """One step of an LSTM from its pre-activations: (output, state) [..., hidden].

    `gates` [..., 4 hidden] are those of input, forget, candidate and output; no peepholes (Babu et al. 2021,
    equations 1 to 5).
    """
    accept, forget, candidate, emit = jnp.split(gates, 4, axis=-1)
    state = jax.nn.sigmoid(forget) * state + jax.nn.sigmoid(accept) * jnp.tanh(candidate)
    return jax.nn.sigmoid(emit) * jnp.tanh(state), state


def lstm_cell(key: Key, inputs: int, hidden: int, dtype: jnp.dtype) -> Cell:
    """An LSTM's weights: LeCun-normal from the inputs, orthogonal for each gate from the hidden state, zero
    biases but for the forget gate's, 1."""
    key_inputs, key_recurrent = jax.random.split(key)
    from_inputs = jax.nn.initializers.lecun_normal()(key_inputs, (inputs, 4 * hidden), dtype)
    return Cell(from_inputs, _orthogonal(key_recurrent, (hidden, hidden), dtype), _bias(hidden, dtype))


def conv_lstm_cell(key: Key, channels: int, hidden: int, dtype: jnp.dtype) -> Cell:
    """A ConvLSTM's weights, 3x3 kernels from `channels` to `hidden` channels; initialised as an LSTM's."""
    key_inputs, key_recurrent = jax.random.split(key)
    from_inputs = jax.nn.initializers.lecun_normal()(key_inputs, (3, 3, channels, 4 * hidden), dtype)
    return Cell(from_inputs, _orthogonal(key_recurrent, (3, 3, hidden, hidden), dtype), _bias(hidden, dtype))


def _orthogonal(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Four kernels of this shape side by side on the last axis, each orthogonal."""
    kernels = [jax.nn.initializers.orthogonal()(k, shape, dtype) for k in jax.random.split(key, 4)]
    return jnp.concatenate(kernels, axis=-1)


def _bias(hidden: int, dtype: jnp.dtype) -> Array:
    return jnp.zeros(4 * hidden, dtype).at[hidden : 2 * hidden].set(1)
