"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jmeta.models.conv4 import conv4
from jmeta.models.conv_encoder import conv_encoder
from jmeta.models.mlp import identity, mlp
from jmeta.models.resnet12 import resnet12
from jmeta.models.resnet20 import resnet20
from jmeta.models.vgg11 import vgg11
from jmeta.types import Model

MODELS: dict[str, Callable[..., Model]] = {
    "conv4": conv4,
    "conv_encoder": conv_encoder,
    "resnet12": resnet12,
    "mlp": mlp,
    "identity": identity,
    "vgg11": vgg11,
    "resnet20": resnet20,
}


def build(name: str, **settings: Any) -> Model:
    """The network called `name`, one of `MODELS`, with its factory's `settings`.

    Raises ValueError where there is no such network.
    """
    if name not in MODELS:
        raise ValueError(f"no network is called {name!r}; choose one of {', '.join(MODELS)}")
    return MODELS[name](**settings)
