"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jmeta.models.conv4 import conv4
from jmeta.models.mlp import identity, mlp
from jmeta.models.resnet12 import resnet12
from jmeta.types import Model

MODELS: dict[str, Callable[..., Model]] = {
    "conv4": conv4,
    "resnet12": resnet12,
    "mlp": mlp,
    "identity": identity,
}


def build(name: str, **settings: Any) -> Model:
    """The network called `name` (`conv4`, `resnet12`, `mlp`, `identity`) with its factory's `settings`.

    Raises ValueError where there is no such network.
    """
    if name not in MODELS:
        raise ValueError(f"no network is called {name!r}; choose one of {', '.join(MODELS)}")
    return MODELS[name](**settings)
