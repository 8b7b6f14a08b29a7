"""A memory as an adapter: it adapts by reading a stream, and queries leave it as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.bounds import spoil
from jmeta.inner.recurrent import unroll
from jmeta.memory.delayed import DelayedLoss, delay_factor
from jmeta.memory.readout import logits
from jmeta.types import Adapter, Array, Key, Memory, Metrics, PyTree, Stream


class Remembered(NamedTuple):
    """The state after a stream: the memory's `carry`, and the `label` [] that arrives with the next step, -1
    if none does."""

    carry: PyTree
    label: Array


def from_memory(
    memory: Memory,
    *,
    delay: int = 1,
    readout: Callable[[PyTree], PyTree] = logits,
    remat_every: int | None = None,
    truncate_every: int | None = None,
) -> Adapter:
    """Make an `Adapter` whose support set is a `Stream` from a memory (Babu et al. 2021, section 4.3).

    Adapting is `jmeta.unroll` over the stream. Each query is the step after it: the memory sees the query,
    and the label that this step brings, from the same last state, whose change is thrown away, so that
    no query sees another. Where the stream's mask is 0 the state stays as it is, and the stream ends with its
    last real step. The logits of all label slots are kept, those of slots without an example too.

    Args:
      memory: the learner; its own loss is not used.
      delay: number of steps after which a label arrives in the stream; of the labels still to come at its
        end, only the oldest reaches the queries.
      readout: `(the memory's outputs) -> outputs of the adapter`, [example, ...] both; by default the logits.
      remat_every, truncate_every: see `jmeta.unroll`.

    Raises:
      ValueError: for a delay below 1, or another one than the memory's; when adapting, for a stream shorter
        than the delay, or whose labels arrive after another delay. If the stream is traced, the latter makes
        the outputs NaN.
    """
    if delay < 1:
        raise ValueError(f"from_memory: delay={delay}; expected at least 1")
    if isinstance(memory.loss, DelayedLoss) and memory.loss.delay != delay:
        raise ValueError(
            f"from_memory: delay={delay} around {memory.loss.who} with delay={memory.loss.delay}; give "
            "both the delay of the stream"
        )

    def adapt(
        meta: PyTree, state: PyTree, support: Stream, key: Key | None, *, train: bool
    ) -> tuple[Remembered, PyTree, Metrics]:
        if support.y.shape[0] < delay:
            raise ValueError(f"from_memory: a stream of {support.y.shape[0]} steps; expected delay={delay}")
        _, carry, state = unroll(
            memory, meta, state, support, remat_every=remat_every, truncate_every=truncate_every, train=train,
            key=key if train else None,
        )  # fmt: skip
        carry = spoil(carry, delay_factor("from_memory", support, delay))
        return Remembered(carry, _next_label(support, delay)), state, {}

    def predict(
        meta: PyTree, fast: Remembered, state: PyTree, x: PyTree, key: Key | None, *, train: bool,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:  # fmt: skip
        feedback = jnp.full(jax.tree.leaves(x)[0].shape[0], fast.label)
        inputs, state = memory.prepare(
            meta, state, x, feedback, train=train, key=key if train else None, mask=mask
        )
        outputs = jax.vmap(lambda query: memory.step(meta, fast.carry, query)[1])(inputs)
        return readout(outputs), state

    return Adapter(init=memory.init, adapt=adapt, predict=predict)


def _next_label(support: Stream, delay: int) -> Array:
    """Return the label [] that arrives after the last real step, -1 if there are fewer steps than `delay`."""
    if support.mask is None:
        return support.y[-delay]
    real = support.mask > 0
    number = jnp.cumsum(real)  # of real steps so far [time]
    place = jnp.argmax(real & (number == number[-1] - delay + 1))
    return jnp.where(number[-1] >= delay, support.y[place], -1)
