"""The network that does nothing, for features that were computed before."""

from __future__ import annotations

from jmeta.models.inputs import on_vectors
from jmeta.models.wrap import from_pair
from jmeta.types import Model


def identity() -> Model:
    """Return the model without parameters whose output is its input, features [example, d].

    Other inputs raise ValueError.
    """
    return on_vectors("identity", from_pair(lambda key, x: {}, lambda params, x: x))
