"""The meta-learner LSTM: the network's weights are the cell state of a learned LSTM, one for all coordinates.

Ravi & Larochelle, Optimization as a Model for Few-Shot Learning, ICLR 2017; the enhanced form (raw gradients,
second order, 8 steps) is Huisman et al.'s, Machine Learning 2022.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.models.recurrent import gated
from jmeta.rules.coordinates import log_and_sign, require_given, uniform
from jmeta.types import Array, Key, PyTree, Rule

Input = Literal["loss_and_gradient", "gradient", "raw_gradient"]
_COLUMNS = {"loss_and_gradient": 4, "gradient": 2, "raw_gradient": 1}


def meta_lstm(
    hidden: int = 20, *, inputs: Input = "loss_and_gradient", gradient_divisor: float = 1.0
) -> Rule:
    """w <- sigmoid(F) w - sigmoid(I) g with gates F and I from two stacked recurrent cells.

    The first cell is an LSTM of size `hidden` over what it sees of the coordinate; the gates of the second
    see the first's output, the weight, and their own value of the step before (pre-activations, as in the
    released code; eq. 3.3).

    Args:
      hidden: size of the first cell.
      inputs: "loss_and_gradient" and "gradient", as logarithm and sign (`log_and_sign`); or "raw_gradient",
        the enhanced form's. The loss is a constant.
      gradient_divisor: g is the gradient divided by this; the released code divides the gradient of the mean
        loss by the support set's size once more.

    Returns:
      A `Rule` with hyper {"cell": the first cell, "forget" and "input": the gates}, which fits parameters of
      any shape; its carry holds each coordinate's states.

    Raises:
      ValueError: for unknown inputs, or a size or divisor that is not positive; at work, without the
        parameters, and without the loss where it is an input.
    """
    if inputs not in get_args(Input):
        raise ValueError(f"meta_lstm: inputs={inputs!r}; expected one of {', '.join(get_args(Input))}")
    if hidden < 1 or not gradient_divisor > 0:
        raise ValueError(
            f"meta_lstm: hidden={hidden}, gradient_divisor={gradient_divisor}; expected positive numbers"
        )

    def init(key: Key, params: PyTree) -> PyTree:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        keys = jax.random.split(key, 8)
        bound = hidden**-0.5
        return {
            "cell": {  # two biases that are only ever added, and trained apart, as in PyTorch's cell
                "input_kernel": uniform(keys[0], (_COLUMNS[inputs], 4 * hidden), bound, dtype),
                "recurrent_kernel": uniform(keys[1], (hidden, 4 * hidden), bound, dtype),
                "input_bias": uniform(keys[2], (4 * hidden,), bound, dtype),
                "recurrent_bias": uniform(keys[3], (4 * hidden,), bound, dtype),
            },
            "forget": {  # keeps 0.982 to 0.998 of a weight at first
                "kernel": uniform(keys[4], (hidden + 2,), 0.01, dtype),
                "bias": jax.random.uniform(keys[5], (), dtype, 4.0, 6.0),
            },
            "input": {  # a learning rate of 0.0067 to 0.018 at first
                "kernel": uniform(keys[6], (hidden + 2,), 0.01, dtype),
                "bias": jax.random.uniform(keys[7], (), dtype, -5.0, -4.0),
            },
        }

    def start(hyper: PyTree, params: PyTree, key: Key | None) -> PyTree:
        flat, _ = ravel_pytree(params)
        states = jnp.zeros((flat.size, hidden), flat.dtype)
        return {
            "output": states,
            "state": states,
            "forget": jnp.zeros_like(flat),
            "input": jnp.zeros_like(flat),
        }

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        require_given("meta_lstm", parameters=params)
        gradient, unravel = ravel_pytree(grads)
        weights, _ = ravel_pytree(params)
        gradient = gradient / gradient_divisor
        output, state = _lstm(hyper["cell"], seen(gradient, loss), carry["output"], carry["state"])
        forget = _gate(hyper["forget"], output, weights, carry["forget"])
        accept = _gate(hyper["input"], output, weights, carry["input"])
        # sigmoid(F) w - w, without the rounding of the difference
        moves = -jax.nn.sigmoid(-forget) * weights - jax.nn.sigmoid(accept) * gradient
        return unravel(moves), {"output": output, "state": state, "forget": forget, "input": accept}

    def seen(gradient: Array, loss: Array) -> Array:
        if inputs == "raw_gradient":
            return gradient[:, None]
        columns = log_and_sign(gradient)
        if inputs == "gradient":
            return columns
        require_given("meta_lstm", loss=loss)
        of_loss = log_and_sign(jax.lax.stop_gradient(loss).astype(gradient.dtype))
        return jnp.concatenate([jnp.broadcast_to(of_loss[None], columns.shape), columns], axis=-1)

    return Rule(init, start, update)


def _lstm(cell: dict[str, Array], x: Array, output: Array, state: Array) -> tuple[Array, Array]:
    bias = cell["input_bias"] + cell["recurrent_bias"]
    return gated(x @ cell["input_kernel"] + output @ cell["recurrent_kernel"] + bias[None], state)


def _gate(gate: dict[str, Array], output: Array, weights: Array, before: Array) -> Array:
    kernel = gate["kernel"]
    return output @ kernel[:-2] + weights * kernel[-2] + before * kernel[-1] + gate["bias"]
