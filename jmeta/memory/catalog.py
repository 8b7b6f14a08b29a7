"""Memories by name, from plain settings: what a run's config.json says and `jmeta.load` builds again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jmeta.memory.apl import apl
from jmeta.memory.cl_lstm import cl_lstm
from jmeta.memory.lstm import lstm
from jmeta.memory.ntm import ntm
from jmeta.memory.prototypes import Prediction, cpm, opn
from jmeta.metrics import accuracy, accuracy_by_shot
from jmeta.models.conv_encoder import conv_encoder
from jmeta.models.residual_encoder import residual_encoder
from jmeta.types import Array, Memory, Metrics, PyTree, Stream

MEMORIES: dict[str, Callable[..., Memory]] = {
    "cl_lstm": cl_lstm, "lstm": lstm, "ntm": ntm, "apl": apl, "opn": opn, "cpm": cpm
}  # fmt: skip


def build(name: str, *, way: int, encoder: Mapping[str, Any] | None = None, **settings: Any) -> Memory:
    """The memory called `name` for `way` label slots with its factory's `settings`.

    `encoder`: settings of the network that the memory stands on, where it does: `jmeta.models.conv_encoder`,
    of "apl" `jmeta.models.residual_encoder`. Raises ValueError where there is no such memory.
    """
    if name not in MEMORIES:
        raise ValueError(f"no memory is called {name!r}; choose one of {', '.join(MEMORIES)}")
    if encoder is not None:
        make = residual_encoder if name == "apl" else conv_encoder
        settings["encoder"] = make(**encoder)
    return MEMORIES[name](way, **settings)


def metric(shots: int) -> Callable[[PyTree, Stream], Metrics]:
    """Accuracy on a stream by the number of earlier presentations, 0 to `shots`, and over all of it."""

    def measure(outputs: PyTree, stream: Stream) -> Metrics:
        chosen = logits(outputs)
        return accuracy(chosen, stream) | accuracy_by_shot(chosen, stream, shots=shots)

    return measure


def logits(outputs: PyTree) -> Array:
    """The logits [..., way] among the outputs of a memory."""
    return outputs.logits if isinstance(outputs, Prediction) else outputs
