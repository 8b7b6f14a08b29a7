"""Wrappers that make a `Model` of any network: flax linen and nnx modules, and pairs of plain functions."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.parts import describe, is_flax, named_arguments
from jmeta.types import Array, Key, Model, PyTree

_MODES = ("train", "training", "is_training", "use_running_average")


def _call_settings(module: Any, train: bool, key: Key | None, mask: Array | None) -> dict[str, Any]:
    """Select the mode, the noise switch and the mask that a module's `__call__` names."""
    modes = dict.fromkeys(_MODES[:3], train) | {"use_running_average": not train}
    return named_arguments(type(module).__call__, **modes, deterministic=key is None, mask=mask)


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
    module's `__call__(x)` may also take its mode, as `train`, `training`, `is_training` or
    `use_running_average`; `deterministic`, which is true if there is no key; and `mask` [example]. A key
    feeds the `dropout` stream; without one every `nn.Dropout` is off, in training mode too.

    Raises:
      TypeError: for what is no linen module.
      ValueError: at `init`, for batch statistics or dropout in a module that takes no mode.
    """
    from flax import linen as nn

    if not isinstance(module, nn.Module):
        wrapper = "; build it first: jmeta.from_linen(Network(...))" if is_flax(module, "linen") else ""
        raise TypeError(f"from_linen: got {describe(module)}; expected a flax linen module{wrapper}")
    takes = _call_settings(module, False, None, None)

    @contextlib.contextmanager
    def without_dropout(layers: list[Any]) -> Any:
        """Let every dropout layer return its inputs, and collect these layers."""

        def call(next_call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
            if not isinstance(context.module, nn.Dropout) or context.method_name != "__call__":
                return next_call(*args, **kwargs)
            layers.append(context.module)
            return args[0] if args else kwargs["inputs"]

        with nn.intercept_methods(call):
            yield

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        layers: list[Any] = []
        with without_dropout(layers):
            variables = dict(module.init({"params": key}, x, **takes))
        if "batch_stats" in variables:
            _require_mode(module, "batch statistics", [name for name in _MODES if name in takes])
        if any(layer.rate for layer in layers):
            _require_mode(module, "dropout", [name for name in takes if name != "mask"])
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
        settings = _call_settings(module, train, key, mask)
        quiet = key is None and "deterministic" not in takes
        rngs = None if key is None else {"dropout": key}
        with without_dropout([]) if quiet else contextlib.nullcontext():
            if not (train and state):
                return module.apply(variables, x, rngs=rngs, **settings), state
            outputs, updated = module.apply(variables, x, rngs=rngs, mutable=list(state), **settings)
        return outputs, dict(updated)

    return Model(init, apply)


def _require_mode(module: Any, part: str, modes: list[str]) -> None:
    if not modes:
        signature = inspect.signature(type(module).__call__)
        raise ValueError(
            f"from_linen: {type(module).__name__} has {part}, but its __call__{signature} takes no mode to "
            "switch between training and evaluation; give it an argument `train` (or `training`, "
            "`is_training`, `use_running_average`; `deterministic` for dropout)"
        )


def from_nnx(make: Callable[[Any], Any]) -> Model:
    """Wrap the flax nnx module that `make(rngs)` builds from `nnx.Rngs`.

    Parameters and state are plain dicts of arrays. `train` sets the module's training or evaluation mode; its
    noise is off if there is no key. Its `__call__(x)` may also take the arguments that `from_linen` names.
    Raises TypeError for a module in place of the function.
    """
    from flax import nnx

    if isinstance(make, nnx.Module) or not callable(make):
        raise TypeError(
            f"from_nnx: got {describe(make)}; expected a function that builds a module: "
            "jmeta.from_nnx(lambda rngs: Network(rngs=rngs))"
        )

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
        outputs = module(x, **_call_settings(module, train, key, mask))
        return outputs, nnx.to_pure_dict(split(module)[-1]) if train else state

    return Model(init, apply)


def from_pair(init: Callable[..., PyTree], apply: Callable[..., PyTree]) -> Model:
    """Wrap two plain functions as a `Model` without state.

    `init(key, x) -> params`; `apply(params, x) -> outputs`, which may also take `train`, `key` and `mask`
    [example]. Raises TypeError for an `apply` that needs anything else.
    """
    options = ("train", "key", "mask")
    with contextlib.suppress(ValueError):  # a built-in function shows no signature
        signature = inspect.signature(apply)
        needed = [name for name, word in signature.parameters.items() if word.default is word.empty
                  and word.kind not in (word.VAR_POSITIONAL, word.VAR_KEYWORD)]  # fmt: skip
        if any(name not in options for name in needed[2:]):
            raise TypeError(
                f"from_pair: apply{signature}; expected apply(params, x), with {', '.join(options)} by "
                "name (of haiku, hk.without_apply_rng)"
            )

    def apply_pair(
        params: PyTree,
        state: PyTree,
        x: PyTree,
        *,
        train: bool,
        key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        return apply(params, x, **named_arguments(apply, train=train, key=key, mask=mask)), state

    return Model(lambda key, x: (init(key, x), {}), apply_pair)
