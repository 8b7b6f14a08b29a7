"""C-MAML, continual MAML: keep adapting, notice when the task switches, and learn then where to start from.

Caccia et al., Online Fast Adaptation and Knowledge Accumulation (OSAKA), NeurIPS 2020. Its ingredients are
options: pre-training (slow weights from an episodic outer loop), update modulation (`threshold`,
`modulation`) and the prolonged adaptation phase (`prolonged`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from jmeta.inner.selection import merge
from jmeta.online import batch_buffer
from jmeta.online.batch_buffer import BatchBuffer
from jmeta.online.episodic import (
    BatchLoss,
    EpisodicState,
    Previous,
    adapt,
    begin,
    blank,
    choose,
    descend,
    episode,
    nothing_before,
    outputs_of,
    score,
)
from jmeta.online.state import example_batch, require
from jmeta.types import Adapter, Array, Batch, Key, LearnerState, Metrics, Online, PyTree

Restart = Literal["code", "immediate"]


class Phase(NamedTuple):
    """The adaptation phase so far: its batches in `buffer`; whether any batch has come, `begun` []; whether
    the next one is to be adapted to from the slow weights, `restart` []."""

    buffer: BatchBuffer
    begun: Array
    restart: Array


def c_maml(
    adapter: Adapter,
    loss: BatchLoss,
    *,
    tx: optax.GradientTransformation,
    threshold: float | Array | None = None,
    modulation: float | Array | None = None,
    prolonged: bool = True,
    restart: Restart = "code",
    limit: int = 100,
) -> Online:
    """Fast weights phi that follow the stream, and slow weights theta that learn from whole phases of it.

    Prolonged, every batch D_t is predicted with phi, which then goes on adapting to D_t. Where that lowers
    the loss on D_t by `threshold` or more, phi belonged to another task: the buffered batches of the phase
    that has ended, paired first half with second half, make a meta-update

        theta <- theta - tx of w * mean over pairs of the gradient of loss(adapt(theta, first), second)
        w = 1 - exp(-modulation * L_meta), with L_meta the mean of these losses, as a constant

    and phi starts from theta again. Not prolonged, phi is adapt(theta, D_t) at every step, and theta is
    updated by w * loss(adapt(theta, D_(t-1)), D_t) unless a switch is noticed, which would mismatch the two.

    Args:
      adapter: a `gradient_adapter` of a whole network. Its order is that of the meta-updates.
      loss: `(outputs, batch) -> scalar`.
      tx: optimiser of all that the adapter meta-learns, step sizes and masks included.
      threshold: gamma, in nats; None never notices a switch.
      modulation: lambda; None takes w = 1.
      prolonged: whether there is a prolonged adaptation phase.
      restart: "code" starts from theta at the batch after a noticed switch, and keeps the batch that showed
        the switch out of the buffer, as in the released code; "immediate" updates theta first, then adapts to
        that batch from it and buffers it.
      limit: batches after which a phase ends without a switch.

    Returns:
      The learner, which also reports `detected` and `updated`, 0 or 1. Before the first batch the fast
      weights are zero, and so are the logits.

    Raises:
      ValueError: for numbers that are not positive and an unknown restart.
    """
    require("c_maml", limit=limit)
    if restart not in get_args(Restart):
        raise ValueError(f"c_maml: restart={restart!r}; expected one of {', '.join(get_args(Restart))}")

    def weighted(value: Array, grads: PyTree) -> PyTree:
        if modulation is None:
            return grads
        weight = 1 - jnp.exp(-jnp.asarray(modulation, value.dtype) * value)
        return jax.tree.map(lambda g: weight.astype(g.dtype) * g, grads)

    def noticed(before: Array, slow: LearnerState, fast: PyTree, batch: Batch) -> Array:
        """Whether having adapted to the batch lowered its loss by the threshold."""
        if threshold is None:
            return jnp.zeros((), bool)
        return before - loss(outputs_of(adapter, slow, slow.meta, fast, batch.x), batch) >= threshold

    if not prolonged:
        return _every_step(adapter, loss, tx, weighted, noticed)

    def learn(slow: LearnerState, buffer: BatchBuffer) -> LearnerState:
        """The meta-update, one pair after another, as many as there are."""
        count = batch_buffer.pairs(buffer)

        def add(index: Array, sums: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
            first, second = batch_buffer.pair(buffer, index)

            def objective(meta: PyTree) -> Array:
                return episode(adapter, loss, slow, meta, first, second)[0]

            return jax.tree.map(jnp.add, sums, jax.value_and_grad(objective)(slow.meta))

        dtype = jnp.result_type(*jax.tree.leaves(slow.meta))
        zeros = (jnp.zeros((), dtype), jax.tree.map(jnp.zeros_like, slow.meta))
        sums = jax.lax.fori_loop(0, count, add, zeros)
        value, grads = jax.tree.map(lambda leaf: leaf / count.astype(leaf.dtype), sums)
        return descend(tx, slow, weighted(value, grads))

    def init(key: Key, x: PyTree) -> EpisodicState:
        slow = begin(adapter, tx, key, x)
        fast = blank(lambda: adapt(adapter, slow, slow.meta, example_batch(x)))
        no = jnp.zeros((), bool)
        return EpisodicState(slow, fast, Phase(batch_buffer.empty(limit + 1, example_batch(x)), no, no))

    def observe(
        state: EpisodicState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[EpisodicState, Metrics]:
        slow, fast, (buffer, begun, again) = state
        measured = score(loss, predict(state, batch.x), batch)
        params = slow.meta["params"]
        start = choose(begun & ~again, merge(fast.params, params), params)
        fast = adapt(adapter, slow, {**slow.meta, "params": start}, batch)
        detected = begun & noticed(measured["loss"], slow, fast, batch)
        ended = (detected & (buffer.held > 0)) | (buffer.held > limit)
        slow = jax.lax.cond(ended, learn, lambda slow, buffer: slow, slow, buffer)
        if restart == "immediate":
            fast = jax.lax.cond(detected, lambda: adapt(adapter, slow, slow.meta, batch), lambda: fast)
            kept, again = jnp.ones((), bool), jnp.zeros((), bool)
        else:
            kept, again = ~ended, detected
        buffer = batch_buffer.push(batch_buffer.cleared(buffer, ended), batch, accept=kept)
        phase = Phase(buffer, jnp.ones((), bool), again)
        return EpisodicState(slow, fast, phase), measured | _flags(detected, ended)

    def predict(state: EpisodicState, x: PyTree) -> PyTree:
        return outputs_of(adapter, state.slow, state.slow.meta, state.fast, x)

    return Online(init, observe, predict)


def _every_step(
    adapter: Adapter,
    loss: BatchLoss,
    tx: optax.GradientTransformation,
    weighted: Callable[[Array, PyTree], PyTree],
    noticed: Callable[[Array, LearnerState, PyTree, Batch], Array],
) -> Online:
    """C-MAML without the prolonged adaptation phase: consecutive batches are support and query."""

    def init(key: Key, x: PyTree) -> EpisodicState:
        return EpisodicState(begin(adapter, tx, key, x), (), nothing_before(x))

    def observe(
        state: EpisodicState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[EpisodicState, Metrics]:
        slow, (support, seen) = state.slow, state.memory

        def objective(meta: PyTree) -> tuple[Array, PyTree]:
            return episode(adapter, loss, slow, meta, support, batch)

        (value, outputs), grads = jax.value_and_grad(objective, has_aux=True)(slow.meta)
        detected = seen & noticed(value, slow, adapt(adapter, slow, slow.meta, batch), batch)
        updated = seen & ~detected
        slow = choose(updated, descend(tx, slow, weighted(value, grads)), slow)
        memory = Previous(batch, jnp.ones((), bool))
        measured = score(loss, outputs, batch) | _flags(detected, updated)
        return EpisodicState(slow, (), memory), measured

    def predict(state: EpisodicState, x: PyTree) -> PyTree:
        fast = adapt(adapter, state.slow, state.slow.meta, state.memory.batch)
        return outputs_of(adapter, state.slow, state.slow.meta, fast, x)

    return Online(init, observe, predict)


def _flags(detected: Array, updated: Array) -> Metrics:
    return {"detected": detected.astype(jnp.float32), "updated": updated.astype(jnp.float32)}
