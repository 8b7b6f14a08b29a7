"""Networks with a learned linear transformation after each layer (Lee & Choi, ICML 2018)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jmeta.parts import require
from jmeta.types import Key, Model, PyTree


def transformed(model: Model) -> Model:
    """Follow each layer W x + b of a network by T (W x + b), with a square T that starts at the identity.

    A layer is a dictionary of parameters with a "kernel" [..., in, out]; T joins it, transposed, as
    "transform" [out, out] and acts on its outputs: of a convolution on its channels, as a convolution of size
    1. The network is run with the product of both.

    Raises:
      TypeError: for what is no model.
      ValueError: at `init`, for a network without such a layer.
    """
    require("transformed", "model", model, Model)

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        params, state = model.init(key, x)
        with_transforms = _of_layers(params, _add)
        if not _has_layer(params):
            raise ValueError("transformed: the network has no layer with a kernel")
        return with_transforms, state

    def apply(params: PyTree, state: PyTree, x: PyTree, **settings: Any) -> tuple[PyTree, PyTree]:
        return model.apply(_of_layers(params, _multiply), state, x, **settings)

    return Model(init, apply)


def _has_layer(params: PyTree) -> bool:
    return isinstance(params, dict) and ("kernel" in params or any(map(_has_layer, params.values())))


def _of_layers(params: PyTree, change: Any) -> PyTree:
    """Apply `change` to every dictionary of `params` that has a kernel."""
    if not isinstance(params, dict):
        return params
    return change(params) if "kernel" in params else {k: _of_layers(v, change) for k, v in params.items()}


def _add(layer: dict[str, Any]) -> dict[str, Any]:
    kernel = layer["kernel"]
    return {**layer, "transform": jnp.eye(kernel.shape[-1], dtype=kernel.dtype)}


def _multiply(layer: dict[str, Any]) -> dict[str, Any]:
    transform = layer["transform"]  # [out, out], in the transpose: rows are the layer's own outputs
    own = {name: leaf for name, leaf in layer.items() if name != "transform"}
    return own | {name: own[name] @ transform for name in ("kernel", "bias") if name in own}
