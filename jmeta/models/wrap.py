"""Wrappers that make a `Model` of any network: flax linen and nnx modules, and pairs of plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key, Model, PyTree


def _named_arguments(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Select the `options` that `function` names among its parameters."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}


def _seed(blank: PyTree, key: Key) -> PyTree:
    """Fill the random state `blank` (shapes) with fresh keys from `key`, and its counters with zeros."""
    leaves, structure = jax.tree.flatten(blank)
    fresh = [
        jax.random.fold_in(key, index)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, fresh)


def from_linen(module: Any) -> Model:
    """Wrap a flax linen module.

    The collection `params` becomes the parameters, every other collection (`batch_stats`) the state. The
    module's `__call__(x)` may also take `train`, `mask` [example] and `deterministic`, which is true if there
    is no key. A key feeds the `dropout` stream.
    """

    def call_settings(train: bool, key: Key | None, mask: Array | None) -> dict[str, Any]:
        return _named_arguments(type(module).__call__, train=train, mask=mask, deterministic=key is None)

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        variables = dict(module.init({"params": key}, x, **call_settings(False, None, None)))
        return variables.pop("params", {}), variables

    def apply(
        params: PyTree,
        state: PyTree,
        x: PyTree,
        *,
        train: bool,
        key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        variables = {"params": params, **state}
        settings = call_settings(train, key, mask)
        rngs = None if key is None else {"dropout": key}
        if not (train and state):
            return module.apply(variables, x, rngs=rngs, **settings), state
        outputs, updated = module.apply(variables, x, rngs=rngs, mutable=list(state), **settings)
        return outputs, dict(updated)

    return Model(init, apply)


def from_nnx(make: Callable[[Any], Any]) -> Model:
    """Wrap the flax nnx module that `make(rngs)` builds from `nnx.Rngs`.

    Parameters and state are plain dicts of arrays. `train` sets the module's training or evaluation mode; its
    noise is off if there is no key. Its `__call__(x)` may also take `mask` [example].
    """
    from flax import nnx

    def split(module: Any) -> Any:
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        _, params, _, state = split(make(nnx.Rngs(key)))
        return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

    def apply(
        params: PyTree,
        state: PyTree,
        x: PyTree,
        *,
        train: bool,
        key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        definition, blank_params, blank_noise, blank_state = split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        nnx.replace_by_pure_dict(blank_params, params)
        nnx.replace_by_pure_dict(blank_state, state)
        noise = _seed(blank_noise, jax.random.key(0) if key is None else key)
        # Without the copy a module that was split at another trace level refuses to change its statistics.
        module = nnx.merge(definition, blank_params, noise, blank_state, copy=True)
        module.set_attributes(
            use_running_average=not train, deterministic=key is None, raise_if_not_found=False
        )
        outputs = module(x, **_named_arguments(type(module).__call__, mask=mask))
        return outputs, nnx.to_pure_dict(split(module)[-1]) if train else state

    return Model(init, apply)


def from_pair(init: Callable[..., PyTree], apply: Callable[..., PyTree]) -> Model:
    """Wrap two plain functions as a `Model` without state.

    `init(key, x) -> params`; `apply(params, x) -> outputs`, which may also take `train`, `key` and `mask`
    [example].
    """

    def apply_pair(
        params: PyTree,
        state: PyTree,
        x: PyTree,
        *,
        train: bool,
        key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        return apply(params, x, **_named_arguments(apply, train=train, key=key, mask=mask)), state

    return Model(lambda key, x: (init(key, x), {}), apply_pair)
