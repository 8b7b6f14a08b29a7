"""A neural Turing machine that writes to the slots last read or least used: memory-augmented networks.

Santoro et al., Meta-Learning with Memory-Augmented Neural Networks, ICML 2016.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jmeta.losses import summed_cross_entropy
from jmeta.memory.labels import one_hot_feedback, require_feedback
from jmeta.memory.similarity import cosine
from jmeta.models.cells import Cell, apply_gates, lstm_cell
from jmeta.types import Array, Key, Memory


class NTMWeights(NamedTuple):
    """Weights of the memory.

    `controller`: the LSTM over [input, label, read content]; `heads` [hidden, head (2 width + 1)] and
    `heads_bias`: keys, contents and gates; `output` [hidden + head width, way] and `output_bias`.
    """

    controller: Cell
    heads: Array
    heads_bias: Array
    output: Array
    output_bias: Array


class NTMState(NamedTuple):
    """The memory and the controller.

    `memory` [slot, width]; `read` [head, slot], the last read weights; `usage` [slot]; `content`
    [head width], the last read content; `controller`: (output, state) of the LSTM.
    """

    memory: Array
    read: Array
    usage: Array
    content: Array
    controller: tuple[Array, Array]


def ntm(
    way: int, *, hidden: int = 200, slots: int = 128, width: int = 40, heads: int = 4, decay: float = 0.95
) -> Memory:
    """Build a memory of `slots` vectors, read by content and written by least recent use.

    Args:
      way: number of label slots.
      hidden: size of the LSTM controller.
      slots: vectors of the memory.
      width: size of each vector.
      heads: read heads; each also writes.
      decay: gamma, of the usage.

    Returns:
      A `Memory` over inputs of any shape (flattened), whose outputs are logits [time, way]; its loss is the
      sum over the steps of their cross-entropy.

    Raises:
      ValueError: for sizes below 1, fewer slots than heads, or a decay outside [0, 1).
    """
    if min(hidden, slots, width, heads) < 1 or slots < heads or not 0 <= decay < 1:
        raise ValueError(
            f"ntm: hidden={hidden}, slots={slots}, width={width}, heads={heads}, decay={decay}; expected "
            "sizes of at least 1, a slot for each head, and a decay of at least 0 and below 1"
        )

    def init(key: Key, x: Array) -> tuple[NTMWeights, dict]:
        inputs = x.reshape(x.shape[0], -1).shape[1] + way + heads * width
        key_controller, key_heads, key_output = jax.random.split(key, 3)
        glorot, dtype = jax.nn.initializers.glorot_uniform(), x.dtype
        return NTMWeights(
            controller=lstm_cell(key_controller, inputs, hidden, dtype),
            heads=glorot(key_heads, (hidden, heads * (2 * width + 1)), dtype),
            heads_bias=jnp.zeros(heads * (2 * width + 1), dtype),
            output=glorot(key_output, (hidden + heads * width, way), dtype),
            output_bias=jnp.zeros(way, dtype),
        ), {}

    def prepare(
        params: NTMWeights, state: dict, x: Array, feedback: Array, *, train: bool, key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[Array, dict]:  # fmt: skip
        require_feedback("ntm", feedback, way)
        label = one_hot_feedback(feedback, way, x.dtype)
        inputs = jnp.concatenate([x.reshape(x.shape[0], -1), label], axis=-1)  # [time, input + way]
        return inputs @ params.controller.inputs[: inputs.shape[1]] + params.controller.bias[None], state

    def carry(params: NTMWeights, inputs: Array) -> NTMState:
        first = jnp.zeros(slots, inputs.dtype).at[0].set(1)
        rest = jnp.zeros(hidden, inputs.dtype)
        return NTMState(
            memory=jnp.full((slots, width), 1e-6, inputs.dtype),
            read=jnp.broadcast_to(first, (heads, slots)),
            usage=first,
            content=jnp.zeros(heads * width, inputs.dtype),
            controller=(rest, rest),
        )

    def step(params: NTMWeights, carry: NTMState, inputs: Array) -> tuple[NTMState, Array]:
        controller = params.controller
        gates = inputs + carry.content @ controller.inputs[-heads * width :]
        output, state = apply_gates(gates + carry.controller[0] @ controller.recurrent, carry.controller[1])
        request = (output @ params.heads + params.heads_bias).reshape(heads, 2 * width + 1)
        keys, contents = jnp.tanh(request[:, :width]), jnp.tanh(request[:, width:-1])  # [head, width]
        again = jax.nn.sigmoid(request[:, -1:])  # [head, 1]

        # The choice of the least used slots has no derivative.
        _, least = lax.top_k(-lax.stop_gradient(carry.usage), heads)
        unused = jax.nn.one_hot(least, slots, dtype=inputs.dtype)
        # write and read [head, slot]
        write = again * carry.read + (1 - again) * unused
        memory = carry.memory * (1 - unused[0])[:, None] + write.T @ contents
        read = jax.nn.softmax(cosine(keys, memory), axis=-1)
        content = (read @ memory).reshape(-1)  # [head width]
        usage = decay * carry.usage + read.sum(0) + write.sum(0)
        logits = jnp.concatenate([output, content]) @ params.output + params.output_bias
        return NTMState(memory, read, usage, content, (output, state)), logits

    return Memory(init, prepare, carry, step, summed_cross_entropy)
