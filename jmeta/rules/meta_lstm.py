"""The meta-learner LSTM, whose cell state is the network's weights: one learned LSTM for all coordinates.

Ravi & Larochelle, Optimization as a Model for Few-Shot Learning, ICLR 2017; the enhanced form (raw gradients,
second order, 8 steps) is Huisman et al.'s, Machine Learning 2022.

Deviations. If the paper and its released code differ, this follows the code: the gates see pre-activations
and the output of the first cell, and the gradient is divided by the size of the support set.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.models.cells import apply_gates
from jmeta.rules.coordinates import log_and_sign, require_inputs, uniform
from jmeta.types import Array, Key, PyTree, Rule

MetaLSTMInput = Literal["loss_and_gradient", "gradient", "raw_gradient"]
_COLUMNS = {"loss_and_gradient": 4, "gradient": 2, "raw_gradient": 1}


def meta_lstm(
    hidden_units: int = 20, *, inputs: MetaLSTMInput = "loss_and_gradient", gradient_divisor: float = 1.0
) -> Rule:
    """Build w <- sigmoid(F) w - sigmoid(I) g, with gates F and I from two stacked recurrent cells.

    The first cell is an LSTM of size `hidden_units` over the inputs of the coordinate; the gates of the
    second see the first's output, the weight, and their own value in the previous step (pre-activations, as
    in the released code; eq. 3.3).

    Args:
      hidden_units: size of the first cell.
      inputs: "loss_and_gradient" or "gradient", as logarithm and sign (`log_and_sign`); or "raw_gradient", as
        in the enhanced form. The loss is a constant.
      gradient_divisor: g is the gradient divided by this; the released code divides the gradient of the mean
        loss by the support set's size once more.

    Returns:
      A `Rule` with hyper {"cell": the first cell, "forget" and "input": the gates}, which fits parameters of
      any shape; its carry holds each coordinate's states.

    Raises:
      ValueError: for unknown inputs, or a size or divisor that is not positive; in `update`, if the
        parameters are missing, or the loss when it is an input.
    """
    if inputs not in get_args(MetaLSTMInput):
        raise ValueError(
            f"meta_lstm: inputs={inputs!r}; expected one of {', '.join(get_args(MetaLSTMInput))}"
        )
    if hidden_units < 1 or not gradient_divisor > 0:
        raise ValueError(
            f"meta_lstm: hidden_units={hidden_units}, gradient_divisor={gradient_divisor}; expected positive "
            "numbers"
        )

    def init(key: Key, params: PyTree) -> PyTree:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        keys = jax.random.split(key, 8)
        bound = hidden_units**-0.5
        return {
            "cell": {  # two biases that are only ever added but trained separately, as in PyTorch's cell
                "input_kernel": uniform(keys[0], (_COLUMNS[inputs], 4 * hidden_units), bound, dtype),
                "recurrent_kernel": uniform(keys[1], (hidden_units, 4 * hidden_units), bound, dtype),
                "input_bias": uniform(keys[2], (4 * hidden_units,), bound, dtype),
                "recurrent_bias": uniform(keys[3], (4 * hidden_units,), bound, dtype),
            },
            "forget": {  # initially keeps 0.982 to 0.998 of a weight
                "kernel": uniform(keys[4], (hidden_units + 2,), 0.01, dtype),
                "bias": jax.random.uniform(keys[5], (), dtype, 4.0, 6.0),
            },
            "input": {  # initially a learning rate of 0.0067 to 0.018
                "kernel": uniform(keys[6], (hidden_units + 2,), 0.01, dtype),
                "bias": jax.random.uniform(keys[7], (), dtype, -5.0, -4.0),
            },
        }

    def start(hyper: PyTree, params: PyTree, key: Key | None) -> PyTree:
        flat, _ = ravel_pytree(params)
        states = jnp.zeros((flat.size, hidden_units), flat.dtype)
        return {
            "output": states,
            "state": states,
            "forget": jnp.zeros_like(flat),
            "input": jnp.zeros_like(flat),
        }

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        require_inputs("meta_lstm", parameters=params)
        gradient, unravel = ravel_pytree(grads)
        weights, _ = ravel_pytree(params)
        gradient = gradient / gradient_divisor
        output, state = _lstm(hyper["cell"], columns(gradient, loss), carry["output"], carry["state"])
        forget = _gate(hyper["forget"], output, weights, carry["forget"])
        accept = _gate(hyper["input"], output, weights, carry["input"])
        # sigmoid(F) w - w, without the rounding of the difference
        moves = -jax.nn.sigmoid(-forget) * weights - jax.nn.sigmoid(accept) * gradient
        return unravel(moves), {"output": output, "state": state, "forget": forget, "input": accept}

    def columns(gradient: Array, loss: Array) -> Array:
        """Lay out the inputs of the first cell, [coordinate, input]."""
        if inputs == "raw_gradient":
            return gradient[:, None]
        gradient_columns = log_and_sign(gradient)  # [coordinate, 2]
        if inputs == "gradient":
            return gradient_columns
        require_inputs("meta_lstm", loss=loss)
        loss_columns = log_and_sign(jnp.asarray(jax.lax.stop_gradient(loss), gradient.dtype))  # [2]
        loss_columns = jnp.broadcast_to(loss_columns[None], gradient_columns.shape)
        return jnp.concatenate([loss_columns, gradient_columns], axis=-1)

    return Rule(init, start, update)


def _lstm(cell: dict[str, Array], x: Array, output: Array, state: Array) -> tuple[Array, Array]:
    bias = cell["input_bias"] + cell["recurrent_bias"]
    return apply_gates(x @ cell["input_kernel"] + output @ cell["recurrent_kernel"] + bias[None], state)


def _gate(gate: dict[str, Array], output: Array, weights: Array, before: Array) -> Array:
    kernel = gate["kernel"]
    return output @ kernel[:-2] + weights * kernel[-2] + before * kernel[-1] + gate["bias"]
