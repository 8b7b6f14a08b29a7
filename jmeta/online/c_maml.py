"""C-MAML, continual MAML: keep adapting, detect task switches, and then update the weights to start from.

Caccia et al., Online Fast Adaptation and Knowledge Accumulation (OSAKA), NeurIPS 2020. Its ingredients are
optional: pre-training (slow weights from an episodic outer loop), update modulation (`threshold`,
`modulation`) and the prolonged adaptation phase (`prolonged`).

Deviations. Not prolonged, phi is adapted anew from the current theta at every step. Before the first batch
the logits are 0, which reads as label 0 and is right once in `way` images; the released code counts that
batch as wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from jmeta.online.batch_buffer import BatchBuffer, clear_if, empty_buffer, pair, pair_count, push_batch
from jmeta.online.episodic import (
    EpisodicState,
    Previous,
    adapt_to_batch,
    episode_loss,
    init_slow,
    no_previous,
    outputs_of,
    score,
    tree_where,
    update_slow,
    zeros_like_result,
)
from jmeta.online.sgd_state import example_batch, require_positive
from jmeta.tree import merge
from jmeta.types import (
    Adapter,
    Array,
    Batch,
    BatchLoss,
    Context,
    Key,
    LearnerState,
    Metrics,
    Online,
    PyTree,
)

Restart = Literal["code", "immediate"]


class Phase(NamedTuple):
    """The adaptation phase so far: its batches in `buffer`; `started` [] is true after the first batch, and
    `restart` [] if the adaptation to the next batch starts from the slow weights."""

    buffer: BatchBuffer
    started: Array
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
    """Follow the stream with fast weights phi, and learn slow weights theta from whole phases of it.

    If `prolonged`, every batch D_t is predicted with phi, which then continues to adapt to D_t. If that
    lowers the loss on D_t by `threshold` or more, phi belonged to another task: the buffered batches of the
    phase that has ended, paired first half with second half, make a meta-update

        theta <- theta - tx of w * mean over pairs of the gradient of loss(adapt(theta, first), second)
        w = 1 - exp(-modulation * L_meta), with L_meta the mean of these losses, as a constant

    and phi starts from theta again. Otherwise phi is adapt(theta, D_t) at every step, and theta is updated by
    w * loss(adapt(theta, D_(t-1)), D_t), unless a switch is detected, after which the two batches do not
    match.

    Args:
      adapter: a `gradient_adapter` of a whole network. Its order is that of the meta-updates.
      loss: `(outputs, batch) -> scalar`.
      tx: optimizer of everything that the adapter meta-learns, including step sizes and masks.
      threshold: gamma, in nats; None never detects a switch.
      modulation: lambda; None sets w = 1.
      prolonged: if true, there are prolonged adaptation phases.
      restart: "code" starts from theta at the batch after a detected switch, and keeps the batch that
        revealed the switch out of the buffer, as in the released code; "immediate" updates theta first, then
        adapts to that batch from it and buffers it.
      limit: batches after which a phase ends without a switch.

    Returns:
      The learner, which also reports `detected` and `updated`, 0 or 1. Before the first batch the fast
      weights are zero, and so are the logits.

    Raises:
      ValueError: for numbers that are not positive and an unknown restart.
    """
    require_positive("c_maml", limit=limit)
    if restart not in get_args(Restart):
        raise ValueError(f"c_maml: restart={restart!r}; expected one of {', '.join(get_args(Restart))}")

    def weighted(value: Array, grads: PyTree) -> PyTree:
        if modulation is None:
            return grads
        weight = 1 - jnp.exp(-jnp.asarray(modulation, value.dtype) * value)
        return jax.tree.map(lambda g: weight.astype(g.dtype) * g, grads)

    def switched(before: Array, slow: LearnerState, fast: PyTree, batch: Batch) -> Array:
        """Test if the adaptation to the batch has lowered its loss by the threshold."""
        if threshold is None:
            return jnp.zeros((), bool)
        outputs = outputs_of(adapter, slow.meta, fast, slow.model_state, batch.x)
        return before - loss(outputs, batch) >= threshold

    if not prolonged:
        return _every_step(adapter, loss, tx, weighted, switched)

    def learn(slow: LearnerState, buffer: BatchBuffer) -> LearnerState:
        """Make the meta-update from all pairs, one after another."""
        count = pair_count(buffer)

        def add(index: Array, sums: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
            first, second = pair(buffer, index)

            def objective(meta: PyTree) -> Array:
                return episode_loss(adapter, loss, meta, slow.model_state, first, second)[0]

            return jax.tree.map(jnp.add, sums, jax.value_and_grad(objective)(slow.meta))

        dtype = jnp.promote_types(jnp.result_type(*jax.tree.leaves(slow.meta)), jnp.float32)
        zeros = (jnp.zeros((), dtype), jax.tree.map(jnp.zeros_like, slow.meta))
        sums = jax.lax.fori_loop(0, count, add, zeros)
        value, grads = jax.tree.map(lambda leaf: leaf / count.astype(leaf.dtype), sums)
        return update_slow(tx, slow, weighted(value, grads))

    def init(key: Key, x: PyTree) -> EpisodicState:
        slow = init_slow(adapter, tx, key, x)
        batch, no = example_batch(x), jnp.zeros((), bool)
        fast = zeros_like_result(lambda: adapt_to_batch(adapter, slow.meta, slow.model_state, batch))
        return EpisodicState(slow, fast, Phase(empty_buffer(limit + 1, batch), no, no))

    def observe(
        state: EpisodicState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[EpisodicState, Metrics]:
        slow, fast, (buffer, started, from_slow) = state
        metrics = score(loss, predict(state, batch.x), batch)
        # Adapt further, or anew
        params = slow.meta["params"]
        start = tree_where(started & ~from_slow, merge(fast.params, params), params)
        fast = adapt_to_batch(adapter, {**slow.meta, "params": start}, slow.model_state, batch)
        # At the end of a phase, learn from it
        detected = started & switched(metrics["loss"], slow, fast, batch)
        ended = (detected & (buffer.held > 0)) | (buffer.held > limit)
        slow = jax.lax.cond(ended, learn, lambda slow, buffer: slow, slow, buffer)
        # Start the next phase
        if restart == "immediate":
            fast = jax.lax.cond(
                detected,
                lambda: adapt_to_batch(adapter, slow.meta, slow.model_state, batch),
                lambda: fast,
            )
            accept, from_slow = jnp.ones((), bool), jnp.zeros((), bool)
        else:
            accept, from_slow = ~ended, detected
        buffer = push_batch(clear_if(ended, buffer), batch, accept=accept)
        phase = Phase(buffer, jnp.ones((), bool), from_slow)
        return EpisodicState(slow, fast, phase), metrics | _events(detected, ended)

    def predict(state: EpisodicState, x: PyTree) -> PyTree:
        return outputs_of(adapter, state.slow.meta, state.fast, state.slow.model_state, x)

    return Online(init, observe, predict)


def _every_step(
    adapter: Adapter,
    loss: BatchLoss,
    tx: optax.GradientTransformation,
    weighted: Callable[[Array, PyTree], PyTree],
    switched: Callable[[Array, LearnerState, PyTree, Batch], Array],
) -> Online:
    """Make C-MAML without the prolonged adaptation phase: consecutive batches are support and query."""

    def init(key: Key, x: PyTree) -> EpisodicState:
        return EpisodicState(init_slow(adapter, tx, key, x), (), no_previous(x))

    def observe(
        state: EpisodicState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[EpisodicState, Metrics]:
        slow, (support, seen) = state.slow, state.memory

        def objective(meta: PyTree) -> tuple[Array, PyTree]:
            return episode_loss(adapter, loss, meta, slow.model_state, support, batch)

        (value, outputs), grads = jax.value_and_grad(objective, has_aux=True)(slow.meta)
        fast = adapt_to_batch(adapter, slow.meta, slow.model_state, batch)
        detected = seen & switched(value, slow, fast, batch)
        updated = seen & ~detected
        slow = tree_where(updated, update_slow(tx, slow, weighted(value, grads)), slow)
        memory = Previous(batch, jnp.ones((), bool))
        metrics = score(loss, outputs, batch) | _events(detected, updated)
        return EpisodicState(slow, (), memory), metrics

    def predict(state: EpisodicState, x: PyTree) -> PyTree:
        slow = state.slow
        fast = adapt_to_batch(adapter, slow.meta, slow.model_state, state.memory.batch)
        return outputs_of(adapter, slow.meta, fast, slow.model_state, x)

    return Online(init, observe, predict)


def _events(detected: Array, updated: Array) -> Metrics:
    return {"detected": detected.astype(jnp.float32), "updated": updated.astype(jnp.float32)}
