"""Reading a memory's outputs: logits and their accuracy on a stream."""

from __future__ import annotations

from jmeta.memory.prototypes import Prediction
from jmeta.metrics import accuracy, accuracy_by_shot
from jmeta.types import Array, Metrics, PyTree, Stream


def logits(outputs: PyTree) -> Array:
    """Select the logits [..., way] among the outputs of a memory."""
    return outputs.logits if isinstance(outputs, Prediction) else outputs


def stream_accuracy(outputs: PyTree, stream: Stream, *, shots: int) -> Metrics:
    """Compute accuracy on a stream, over all of it and by the number of earlier presentations.

    {"accuracy": [], "accuracy_0_shot": [], ..., "accuracy_<shots>_shot": []}, see `jmeta.accuracy_by_shot`.
    """
    stream_logits = logits(outputs)
    return accuracy(stream_logits, stream) | accuracy_by_shot(stream_logits, stream, shots=shots)
