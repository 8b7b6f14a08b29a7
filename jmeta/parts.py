"""Functions and objects that a user hands over: what they ask for, and what is wrong with them."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from typing import Any

import optax

from jmeta.types import Model, Rule


def named_arguments(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Select the `options` that `function` names among its parameters; none if it shows no signature."""
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a built-in function
        return {}
    return {name: value for name, value in options.items() if name in names}


def require(who: str, name: str, value: Any, kind: type) -> None:
    """Raise TypeError, in the name of `who`, if its argument `name` is no `kind`.

    The message says how a network, an optax transformation or a number becomes one.
    """
    if not isinstance(value, kind):
        raise TypeError(
            f"{who}: {name} is {describe(value)}; expected a {kind.__name__}{_advice(value, kind)}"
        )


def describe(value: Any) -> str:
    """Write a string or number as it is, and of anything else its class."""
    if isinstance(value, str | numbers.Number):
        return repr(value)
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def is_flax(value: Any, library: str) -> bool:
    """Return True for a module, or a class of modules, of flax's `library`, "linen" or "nnx"."""
    bases = value.__mro__ if isinstance(value, type) else type(value).__mro__
    return any(base.__module__.startswith(f"flax.{library}") for base in bases)


def _advice(value: Any, kind: type) -> str:
    if kind is Model and is_flax(value, "linen"):
        return ": jmeta.from_linen(module)"
    if kind is Model and is_flax(value, "nnx"):
        return ": jmeta.from_nnx(lambda rngs: Network(rngs=rngs))"
    if kind is Model:
        return ": jmeta.from_linen, jmeta.from_nnx or jmeta.from_pair(init, apply)"
    if kind is Rule and isinstance(value, optax.GradientTransformation):
        return ": jmeta.from_optax(transformation)"
    if kind is Rule and isinstance(value, numbers.Number):
        return f": jmeta.sgd({value})"
    return ""
