"""A memory as an adapter: it adapts by reading a stream and stays as it is while it answers queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.inner.recurrent import unroll_with_state
from jmeta.types import Adapter, Array, Key, Memory, Metrics, PyTree, Stream


class Remembered(NamedTuple):
    """What a stream leaves behind: the memory's `carry`, and the `label` [] that the next step brings."""

    carry: PyTree
    label: Array


def from_memory(
    memory: Memory,
    *,
    delay: int = 1,
    readout: Callable[[PyTree], PyTree] = lambda outputs: outputs,
    remat_every: int | None = None,
    truncate_every: int | None = None,
) -> Adapter:
    """Any memory as an `Adapter` whose support set is a `Stream` (Babu et al. 2021, section 4.3).

    Adapting is `jmeta.unroll` over the stream. Each query is the step after it: the memory sees the query,
    and the label that this step brings, from the same last state, whose change is thrown away, so that
    queries know nothing of each other.

    Args:
      memory: the learner; its own loss is not used.
      delay: after how many steps a label arrives in the stream; of the labels that are under way when it
        ends, only the oldest reaches a query, the others nothing.
      readout: makes the adapter's outputs of the memory's, [example, ...] both.
      remat_every, truncate_every: see `jmeta.unroll`.

    Raises:
      ValueError: for a delay below 1; when adapting, for a stream shorter than the delay.
    """
    if delay < 1:
        raise ValueError(f"from_memory: delay={delay}; expected at least 1")

    def adapt(
        meta: PyTree, state: PyTree, support: Stream, key: Key | None, *, train: bool
    ) -> tuple[Remembered, PyTree, Metrics]:
        if support.y.shape[0] < delay:
            raise ValueError(f"from_memory: a stream of {support.y.shape[0]} steps; expected delay={delay}")
        _, carry, state = unroll_with_state(
            memory, meta, state, support, remat_every=remat_every, truncate_every=truncate_every, train=train,
            key=key if train else None,
        )  # fmt: skip
        return Remembered(carry, support.y[-delay]), state, {}

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
