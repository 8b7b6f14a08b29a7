"""CL+LSTM: memory distributed over the layers of a network of convolutional LSTMs.

Babu, Savarese & Maire, Online Meta-Learning via Learning with Layer-Distributed Memory, NeurIPS 2021.

Deviations. The paper does not give the sizes and the kind of skip; the defaults (64 filters, an LSTM of 256,
an additive skip; 1,906,437 parameters for 5-way Omniglot) are those that its cost and parameter counts imply.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jmeta.losses import summed_cross_entropy
from jmeta.memory.labels import one_hot_feedback, require_feedback
from jmeta.models.cells import Cell, apply_gates, conv_lstm_cell, lstm_cell
from jmeta.models.conv import convolution_primitive, convolve, max_pool
from jmeta.models.inputs import check_images
from jmeta.types import Array, Key, Memory

Inject = Literal["first", "all", "lstm"]
Skip = Literal["add", "concat", "none"]
LAYERS = 4


class CLLSTMWeights(NamedTuple):
    """Weights of CL+LSTM.

    `cells`: four ConvLSTM cells; `labels`: for each the kernel [3, 3, way, 4 filters] of its label planes, or
    None; `lstm`: the last cell; `head` [hidden, way] and `bias` [way]: the classifier.
    """

    cells: tuple[Cell, ...]
    labels: tuple[Array | None, ...]
    lstm: Cell
    head: Array
    bias: Array


class CLLSTMState(NamedTuple):
    """The memory: (output, state) of each ConvLSTM layer and of the LSTM."""

    layers: tuple[tuple[Array, Array], ...]
    lstm: tuple[Array, Array]


def cl_lstm(
    way: int,
    *,
    filters: int = 64,
    hidden: int = 256,
    inject: Inject = "first",
    skip: Skip = "add",
) -> Memory:
    """Build four ConvLSTM layers, an LSTM and a classifier, with labels fed back as inputs (Figure 2).

    Args:
      way: number of label slots.
      filters: channels of each ConvLSTM layer; 2x2 max pooling after the first three.
      hidden: size of the LSTM.
      inject: the layers that see the fed-back label as planes, besides the LSTM: the "first" (Table 2, last
        row), "all", or none ("lstm").
      skip: how the second layer's output joins the input of the fourth.

    Returns:
      A `Memory` on images `x` [time, height, width, channel] and integer feedback [time], -1 for none, whose
      outputs are logits [time, way]. Its loss is the sum of the cross-entropies of all steps.

    Raises:
      ValueError: for an unknown `inject` or `skip`; at `init`, for inputs that are no images, and for images
        smaller than 8x8.
    """
    if inject not in get_args(Inject) or skip not in get_args(Skip):
        raise ValueError(
            f"cl_lstm: inject={inject!r}, skip={skip!r}; expected one of {', '.join(get_args(Inject))} "
            f"and one of {', '.join(get_args(Skip))}"
        )
    injected = [inject == "all" or (inject == "first" and layer == 0) for layer in range(LAYERS)]

    def init(key: Key, x: Array) -> tuple[CLLSTMWeights, dict]:
        check_images("cl_lstm", x, least=8)
        _, height, width, channels = x.shape
        *cell_keys, key_lstm, key_head, key_labels = jax.random.split(key, LAYERS + 3)
        sizes = [channels, filters, filters, 2 * filters if skip == "concat" else filters]
        cells = tuple(conv_lstm_cell(k, size, filters, x.dtype) for k, size in zip(cell_keys, sizes))
        labels = tuple(
            _label_kernel(k, size, way, filters, x.dtype) if into else None
            for k, into, size in zip(jax.random.split(key_labels, LAYERS), injected, sizes)
        )
        features = (height // 8) * (width // 8) * filters
        head = jax.nn.initializers.lecun_normal()(key_head, (hidden, way), x.dtype)
        lstm = lstm_cell(key_lstm, features + way, hidden, x.dtype)
        return CLLSTMWeights(cells, labels, lstm, head, jnp.zeros(way, x.dtype)), {}

    def prepare(
        params: CLLSTMWeights, state: dict, x: Array, feedback: Array, *, train: bool, key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[dict[str, Any], dict]:  # fmt: skip
        """Convolve all images for the first layer, and compute what the labels add to each layer's gates."""
        require_feedback("cl_lstm", feedback, way)
        label = one_hot_feedback(feedback, way, x.dtype)  # [time, way]
        first = params.cells[0].inputs
        if params.labels[0] is not None:
            # planes [time, height, width, way], then [time, height, width, channel + way]
            planes_of_labels = jnp.broadcast_to(label[:, None, None], (*x.shape[:-1], way))
            x = jnp.concatenate([x, planes_of_labels], -1)
            first = jnp.concatenate([first, params.labels[0]], 2)  # [3, 3, channel + way, 4 filters]
        # each [time, height, width, 4 filters]
        planes = [
            None if kernel is None else jnp.tensordot(label, _label_maps(kernel, *_size(x, layer)), 1)
            for layer, kernel in enumerate(params.labels[1:], 1)
        ]
        return {"gates": _convolve(x, first), "planes": planes, "label": label}, state

    def carry(params: CLLSTMWeights, inputs: dict[str, Any]) -> CLLSTMState:
        _, height, width, _ = inputs["gates"].shape
        dtype = inputs["gates"].dtype

        def zeros(*shape: int) -> tuple[Array, Array]:
            return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

        layers = tuple(zeros(height >> layer, width >> layer, filters) for layer in range(LAYERS))
        return CLLSTMState(layers, zeros(hidden))

    def step(params: CLLSTMWeights, carry: CLLSTMState, inputs: dict[str, Any]) -> tuple[CLLSTMState, Array]:
        layers: list[tuple[Array, Array]] = []
        below: list[Array] = []  # the pooled outputs of the layers so far
        for index, (cell, (output, state)) in enumerate(zip(params.cells, carry.layers)):
            if index == 0:
                gates = inputs["gates"] + _convolve(output, cell.recurrent)
            else:
                x = jnp.concatenate([join(below, index), output], axis=-1)  # [height, width, in + filters]
                gates = _convolve(x, jnp.concatenate([cell.inputs, cell.recurrent], axis=2))
                if inputs["planes"][index - 1] is not None:
                    gates = gates + inputs["planes"][index - 1]
            output, state = apply_gates(gates + jnp.broadcast_to(cell.bias, gates.shape), state)
            layers.append((output, state))
            below.append(_pool(output))
        # [height width filters + way]
        features = jnp.concatenate([layers[-1][0].reshape(-1), inputs["label"]])
        output, state = carry.lstm
        gates = features @ params.lstm.inputs + output @ params.lstm.recurrent + params.lstm.bias
        output, state = apply_gates(gates, state)
        return CLLSTMState(tuple(layers), (output, state)), output @ params.head + params.bias

    def join(below: list[Array], index: int) -> Array:
        """Return the input of layer `index`: the pooled output below, and the second layer's if it skips."""
        if index < LAYERS - 1 or skip == "none":
            return below[-1]
        skipped = _pool(below[1])
        return below[-1] + skipped if skip == "add" else jnp.concatenate([below[-1], skipped], axis=-1)

    return Memory(init, prepare, carry, step, summed_cross_entropy)


def _convolve(x: Array, kernel: Array) -> Array:
    """Convolve images [height, width, in] or [time, height, width, in] with a 3x3 kernel."""
    primitive = convolution_primitive("shared")
    if x.ndim == 3:
        return convolve(x[None], kernel, primitive=primitive)[0]
    return convolve(x, kernel, primitive=primitive)


def _pool(x: Array) -> Array:
    return max_pool(x[None])[0]


def _size(x: Array, layer: int) -> tuple[int, int]:
    return x.shape[-3] >> layer, x.shape[-2] >> layer


def _label_maps(kernel: Array, height: int, width: int) -> Array:
    """Compute what the planes of each label add to the gates, [way, height, width, 4 filters].

    A label's planes are constant over space, so their convolution is the same at every time step.
    """
    way = kernel.shape[2]
    # [way, height, width, way]
    planes = jnp.broadcast_to(jnp.eye(way, dtype=kernel.dtype)[:, None, None, :], (way, height, width, way))
    return _convolve(planes, kernel)


def _label_kernel(key: Key, channels: int, way: int, filters: int, dtype: jnp.dtype) -> Array:
    """Draw the part for label planes [3, 3, way, 4 filters] of a kernel over `channels` + `way` inputs.

    The part for images is drawn as if it were alone, and so begins larger.
    """
    lecun = jax.nn.initializers.lecun_normal()
    return lecun(key, (3, 3, channels + way, 4 * filters), dtype)[:, :, channels:]
