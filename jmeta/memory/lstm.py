"""An LSTM over features and fed-back labels, with its state as the only memory.

Santoro et al., Meta-Learning with Memory-Augmented Neural Networks, ICML 2016 (on pixels); on the features of
a convolutional network, the CNN+LSTM and CNN-F+LSTM of Babu et al., NeurIPS 2021, Table 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.losses import summed_cross_entropy
from jmeta.memory.labels import one_hot_feedback, require_feedback
from jmeta.models.cells import Cell, apply_gates, lstm_cell
from jmeta.models.mlp import mlp
from jmeta.types import Array, Key, Memory, Model, PyTree


class LSTMWeights(NamedTuple):
    """Weights of the memory.

    `encoder`: the network's parameters; `cells`: the stacked LSTMs; the classifier `head` [hidden, way] and
    `bias` [way].
    """

    encoder: PyTree
    cells: tuple[Cell, ...]
    head: Array
    bias: Array


def lstm(
    way: int, *, encoder: Model | None = None, hidden: int = 200, layers: int = 1, frozen: bool = False
) -> Memory:
    """Build a stack of LSTMs over [features, fed-back label].

    Args:
      way: number of label slots.
      encoder: maps each input on its own to features [time, d]; None flattens inputs.
      hidden: size of the LSTMs.
      layers: number of the LSTMs.
      frozen: the encoder's parameters get no gradient (they come from elsewhere); an optimizer with weight
        decay would move them all the same.

    Returns:
      A `Memory` whose outputs are logits [time, way] and whose loss is the sum over the steps of their
      cross-entropy. Features and the input part of the first cell's gates are computed for all steps at
      once.

    Raises:
      ValueError: for a size or number below 1.
    """
    if hidden < 1 or layers < 1:
        raise ValueError(f"lstm: hidden={hidden}, layers={layers}; expected at least 1")
    network = encoder or mlp(widths=())

    def init(key: Key, x: Array) -> tuple[LSTMWeights, PyTree]:
        key_encoder, key_head, *cell_keys = jax.random.split(key, layers + 2)
        params, state = network.init(key_encoder, x)
        features = jax.eval_shape(lambda: network.apply(params, state, x, train=False)[0]).shape[-1]
        sizes = [features + way, *[hidden] * (layers - 1)]
        cells = tuple(lstm_cell(k, size, hidden, x.dtype) for k, size in zip(cell_keys, sizes))
        head = jax.nn.initializers.lecun_normal()(key_head, (hidden, way), x.dtype)
        return LSTMWeights(params, cells, head, jnp.zeros(way, x.dtype)), state

    def prepare(
        params: LSTMWeights, state: PyTree, x: Array, feedback: Array, *, train: bool, key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[Array, PyTree]:  # fmt: skip
        weights = jax.lax.stop_gradient(params.encoder) if frozen else params.encoder
        require_feedback("lstm", feedback, way)
        features, state = network.apply(weights, state, x, train=train, key=key, mask=mask)
        label = one_hot_feedback(feedback, way, features.dtype)
        cell = params.cells[0]
        # [time, 4 hidden]
        return jnp.concatenate([features, label], axis=-1) @ cell.inputs + cell.bias[None], state

    def carry(params: LSTMWeights, inputs: Array) -> tuple[tuple[Array, Array], ...]:
        return tuple((jnp.zeros(hidden, inputs.dtype), jnp.zeros(hidden, inputs.dtype)) for _ in params.cells)

    def step(
        params: LSTMWeights, carry: tuple[tuple[Array, Array], ...], inputs: Array
    ) -> tuple[tuple[tuple[Array, Array], ...], Array]:
        gates, after = inputs, list[tuple[Array, Array]]()
        for index, (cell, (output, state)) in enumerate(zip(params.cells, carry)):
            if index:
                gates = after[-1][0] @ cell.inputs + cell.bias
            after.append(apply_gates(gates + output @ cell.recurrent, state))
        return tuple(after), after[-1][0] @ params.head + params.bias

    return Memory(init, prepare, carry, step, summed_cross_entropy)
