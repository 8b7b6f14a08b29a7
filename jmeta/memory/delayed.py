"""Labels that arrive later: a queue of features that wait for theirs, and a check of the delay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jmeta.bounds import is_concrete, one_or_nan
from jmeta.types import Array, PyTree, Stream

StreamLoss = Callable[[PyTree, Stream], Array]  # (outputs, stream) -> scalar


def empty_queue(delay: int, size: int, dtype: jnp.dtype) -> Array:
    """Return a queue [delay, size] of zeros."""
    return jnp.zeros((delay, size), dtype)


def enqueue(queue: Array, features: Array) -> Array:
    """Append `features` [size] and drop the oldest entry, whose label has arrived."""
    return jnp.concatenate([queue[1:], features[None]])


def delay_factor(who: str, stream: Stream, delay: int) -> Array:
    """Return 1, or NaN if a label that arrives is not that of `delay` steps before.

    The first `delay` steps may continue another stream, and are not checked. Raises ValueError, in the name
    of `who`, if the stream is concrete.
    """
    parts = (stream.feedback, stream.y) if stream.mask is None else (stream.feedback, stream.y, stream.mask)
    concrete = all(map(is_concrete, parts))
    feedback, y, *mask = map(np.asarray, parts) if concrete else parts
    arriving = feedback[delay:]
    right = (arriving < 0) | (arriving == y[: arriving.shape[0]])
    if mask:
        right = right | (mask[0][delay:] == 0)
    if concrete and not right.all():
        first = int(np.argmax(feedback >= 0))
        raise ValueError(
            f"{who}: delay={delay}, but the stream's first label arrives at step {first}, and "
            "labels are not those of that many steps before; give the memory the delay of its stream"
        )
    return one_or_nan(jnp.asarray(right))


@dataclass(frozen=True)
class DelayedLoss:
    """The `loss` of a memory, `who`, that pairs each label with the features of `delay` steps before."""

    who: str
    loss: StreamLoss
    delay: int

    def __call__(self, outputs: PyTree, stream: Stream) -> Array:
        """Compute the loss; NaN for a stream of another delay."""
        return self.loss(outputs, stream) * delay_factor(self.who, stream, self.delay)
