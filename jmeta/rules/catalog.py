"""Inner update rules by name, from plain settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from jmeta.rules.bridge import from_optax
from jmeta.rules.coordinates import clip_gradients
from jmeta.rules.masked_sgd import masked_sgd, rectified_sgd
from jmeta.rules.meta_lstm import meta_lstm
from jmeta.rules.sgd import sgd
from jmeta.rules.turtle import turtle
from jmeta.types import Rule


def _adam(rate: float) -> Rule:
    return from_optax(optax.adam(rate))


RULES: dict[str, Callable[..., Rule]] = {
    "sgd": sgd,
    "adam": _adam,
    "masked_sgd": masked_sgd,
    "rectified_sgd": rectified_sgd,
    "turtle": turtle,
    "meta_lstm": meta_lstm,
}


def build(name: str, *, clip: float | None = None, **settings: Any) -> Rule:
    """The rule called `name` with its factory's `settings`; its gradients clamped to +-`clip` where given.

    Raises ValueError where there is no such rule.
    """
    if name not in RULES:
        raise ValueError(f"no inner rule is called {name!r}; choose one of {', '.join(RULES)}")
    rule = RULES[name](**settings)
    return rule if clip is None else clip_gradients(rule, clip)
