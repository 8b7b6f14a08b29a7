"""A network that never adapts, for supervised training and as the simplest baseline."""

from __future__ import annotations

from jmeta.parts import require
from jmeta.types import Adapter, Array, Batch, Key, Metrics, Model, PyTree


def plain(model: Model) -> Adapter:
    """A plain network as an adapter that ignores the support set and never adapts."""
    require("plain", "model", model, Model)

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key, *, train: bool
    ) -> tuple[PyTree, PyTree, Metrics]:
        return None, state, {}

    def predict(
        meta: PyTree, fast: PyTree, state: PyTree, x: PyTree, key: Key, *, train: bool, mask: Array | None
    ) -> tuple[PyTree, PyTree]:
        return model.apply(meta, state, x, train=train, key=key if train else None, mask=mask)

    return Adapter(init=model.init, adapt=adapt, predict=predict)
