"""TURTLE: a stateless network, the same for every coordinate, that turns gradients into updates.

Huisman, Plaat & van Rijn, Stateless Neural Meta-Learning using Second-Order Gradients, Machine Learning 2022.

Deviations. The released code's options `layer_wise` and `decouple`, off in all published results, are left
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.rules.coordinates import log_and_sign, require_inputs, require_rates_of, uniform
from jmeta.types import Array, Key, PyTree, Rule

TurtleInput = Literal["loss", "gradient", "gradient_history", "update_history", "step"]


def turtle(
    widths: Sequence[int] = (20, 20, 20, 20, 20),
    *,
    inputs: Sequence[TurtleInput] = ("gradient",),
    decay: float = 0.9,
    learn_rates: bool = True,
    preprocess: bool = False,
) -> Rule:
    """Build w <- w + alpha m(inputs), with one small ReLU network m for all coordinates (eq. 3.7).

    Args:
      widths: hidden layers of m; () makes it linear.
      inputs: the inputs of m for a coordinate: its "gradient"; the "loss", a constant; the index of the
        "step"; and moving averages, "gradient_history" (of the gradients so far, the current one included)
        and "update_history" (of the updates so far; zero at the first step).
      decay: beta of the moving averages H <- beta H + (1 - beta) v, which start at their first value
        (eq. 3.6).
      learn_rates: meta-learn a rate alpha for every coordinate, from U[0, 1); otherwise alpha = 1.
      preprocess: turn each input but the step into logarithm and sign (`log_and_sign`).

    Returns:
      A `Rule` with hyper {"network": [{"kernel", "bias"}, ...], "rates": like the parameters, if learned}.
      m treats coordinates alike and fits parameters of any shape. The rates belong to the network that they
      were learned on, and m, learned beside them, relies on them: learn a rule for other networks without
      rates.

    Raises:
      ValueError: for unknown, repeated or no inputs, a width below 1, or a decay outside [0, 1); in
        `start`, for rates of another network; in `update`, if the loss is missing when it is an input.
    """
    inputs = tuple(inputs)
    unknown = [name for name in inputs if name not in get_args(TurtleInput)]
    if unknown or not inputs or len(set(inputs)) < len(inputs):
        known = ", ".join(get_args(TurtleInput))
        raise ValueError(f"turtle: inputs={','.join(inputs)}; expected one or more of {known}")
    if any(width < 1 for width in widths):
        raise ValueError(f"turtle: widths={tuple(widths)}; expected numbers of at least 1")
    if not 0 <= decay < 1:
        raise ValueError(f"turtle: decay={decay}; expected at least 0 and below 1")
    columns = sum(2 if preprocess and name != "step" else 1 for name in inputs)
    histories = [name for name in inputs if name.endswith("_history")]

    def init(key: Key, params: PyTree) -> PyTree:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        key_network, key_rates = jax.random.split(key)
        sizes = [columns, *widths, 1]
        layers = [
            {
                "kernel": uniform(layer_key, (fan_in, fan_out), fan_in**-0.5, dtype),
                "bias": jnp.zeros(fan_out, dtype),
            }
            for layer_key, fan_in, fan_out in zip(
                jax.random.split(key_network, len(sizes) - 1), sizes, sizes[1:]
            )
        ]
        if not learn_rates:
            return {"network": layers}
        flat, unravel = ravel_pytree(params)
        return {"network": layers, "rates": unravel(jax.random.uniform(key_rates, flat.shape, flat.dtype))}

    def start(hyper: PyTree, params: PyTree, key: Key | None) -> PyTree:
        if learn_rates:
            require_rates_of("turtle", hyper["rates"], params)
        flat, _ = ravel_pytree(params)
        return {name: jnp.zeros_like(flat) for name in histories}

    def average(history: Array, value: Array, first: Array) -> Array:
        return jnp.where(first, value, decay * history + (1 - decay) * value)

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        gradient, unravel = ravel_pytree(grads)
        carry = dict(carry)
        if "gradient_history" in carry:
            carry["gradient_history"] = average(carry["gradient_history"], gradient, step == 0)
        values = {"gradient": gradient, "step": jnp.full_like(gradient, step), **carry}
        if "loss" in inputs:
            require_inputs("turtle", loss=loss)
            values["loss"] = jnp.full_like(gradient, jax.lax.stop_gradient(loss))
        # each [coordinate, 1 or 2]
        as_columns = [
            log_and_sign(values[name]) if preprocess and name != "step" else values[name][:, None]
            for name in inputs
        ]
        moves = _network(hyper["network"], jnp.concatenate(as_columns, axis=-1))[:, 0]  # [coordinate]
        if learn_rates:
            moves = moves * ravel_pytree(hyper["rates"])[0]
        if "update_history" in carry:
            carry["update_history"] = average(carry["update_history"], moves, step == 0)
        return unravel(moves), carry

    return Rule(init, start, update)


def turtle_of_equal_layers(hidden_layers: int = 5, hidden_units: int = 20, **options: Any) -> Rule:
    """Build `turtle` with `hidden_layers` layers of `hidden_units` units; `options` are its keywords."""
    return turtle((hidden_units,) * hidden_layers, **options)


def _network(layers: Sequence[dict[str, Array]], x: Array) -> Array:
    for index, layer in enumerate(layers):
        x = x @ layer["kernel"] + layer["bias"][None]
        x = jax.nn.relu(x) if index < len(layers) - 1 else x
    return x
