"""Look-ahead meta-replay: what La-MAML and its relatives have in common (Gupta et al., NeurIPS 2020).

Each glance at a batch takes one inner step for each of its examples, and judges every intermediate by the
loss on the batch and a replay draw together. All derivatives are first order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jmeta.online import reservoir
from jmeta.online.state import (
    Loss,
    OnlineState,
    clip_norm,
    descend,
    example_batch,
    examples_of,
    init_params,
    joined,
    loss_of,
    predictor,
    require,
)
from jmeta.types import Array, Batch, Key, Metrics, Model, Online, PyTree

MetaLoss = Literal["mean", "last"]


class LookAhead(NamedTuple):
    """Of one glance: the gradient of the meta-loss in the weights, `grads`, and in the inner learning rates,
    `rate_grads`; `loss` [] is the mean of the batch's examples, each before the step on it."""

    grads: PyTree
    rate_grads: PyTree
    loss: Array


# (params, rates, batch, judged, meta_loss) -> LookAhead; `judged` ends with the examples of `batch`.
Ahead = Callable[[PyTree, PyTree, Batch, Batch, MetaLoss], LookAhead]


def look_ahead(
    loss: Loss, params: PyTree, rates: PyTree, batch: Batch, judged: Batch, meta_loss: MetaLoss = "mean"
) -> LookAhead:
    """Inner steps phi_i = phi_(i-1) - rates * g_i on the examples of `batch`, judged on `judged`.

    With G_i the gradient of the judging loss at phi_i, the gradients are those of the mean of the judging
    losses over all i ("mean": the released code), or of the last one ("last": eq. 8 of von Oswald et al.),
    in first order: mean_i G_i in the weights, - mean_i G_i * sum_(k <= i) g_k in the rates.
    """
    count = batch.y.shape[0]
    zeros = jax.tree.map(jnp.zeros_like, params)

    def inner(carry: tuple[PyTree, PyTree], example: Batch) -> tuple[tuple[PyTree, PyTree], Array]:
        fast, total = carry
        value, grads = jax.value_and_grad(loss)(fast, example)
        return (descend(fast, rates, grads), jax.tree.map(jnp.add, total, grads)), value

    def judge(fast: PyTree, total: PyTree, sums: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        grads = jax.grad(loss)(fast, judged)
        added = jax.tree.map(jnp.add, sums[0], grads)
        return added, jax.tree.map(lambda s, g, t: s - g * t, sums[1], grads, total)

    def step(carry: tuple, example: Batch) -> tuple[tuple, Array]:
        moved, value = inner(carry[:2], example)
        return (*moved, *judge(*moved, carry[2:])), value

    if meta_loss == "mean":
        (_, _, grads, rate_grads), values = jax.lax.scan(
            step, (params, zeros, zeros, zeros), examples_of(batch)
        )
        grads, rate_grads = jax.tree.map(lambda leaf: leaf / count, (grads, rate_grads))
    else:
        moved, values = jax.lax.scan(inner, (params, zeros), examples_of(batch))
        grads, rate_grads = judge(*moved, (zeros, zeros))
    return LookAhead(grads, rate_grads, values.mean())


def meta_replay(
    who: str,
    model: Model,
    loss: Callable[[PyTree, Batch], Array],
    *,
    learned: Callable[[PyTree], PyTree],
    rates: Callable[[PyTree, PyTree], PyTree],
    update: Callable[[PyTree, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    glances: int = 5,
    capacity: int = 200,
    replay: int = 10,
    clip: float | None = 2.0,
    meta_loss: MetaLoss = "mean",
    ahead: Ahead | None = None,
) -> Online:
    """The learner whose glances look ahead with the inner rates of what it learns beside the weights.

    Args:
      who: its name in errors.
      model, loss: the network (without state), and `loss(outputs, batch) -> scalar`.
      learned: `params -> learned`, what it learns at first.
      rates: `(learned, params) -> rates` like the parameters, differentiable in `learned`.
      update: `(params, learned, grads, learned_grads) -> (params, learned)`, with both gradients clipped.
      glances: meta-updates on each batch, each with a replay draw and an order of its own.
      capacity, replay: slots of the reservoir, and examples of a draw. Examples enter after the first glance
        of the first pass.
      clip: largest global norm of each gradient, None for no limit.
      meta_loss: see `look_ahead`.
      ahead: another way to compute `look_ahead`, such as `jmeta.online.dense.dense_look_ahead`.

    Raises:
      ValueError: for numbers that are not positive and an unknown meta-loss.
    """
    require(who, glances=glances, capacity=capacity, replay=replay, clip=clip)
    if meta_loss not in get_args(MetaLoss):
        raise ValueError(f"{who}: meta_loss={meta_loss!r}; expected one of {', '.join(get_args(MetaLoss))}")
    see_ahead = ahead or functools.partial(look_ahead, loss_of(model, loss))

    def init(key: Key, x: PyTree) -> OnlineState:
        params = init_params(model, key, x)
        return OnlineState(params, learned(params), reservoir.empty(capacity, example_batch(x)))

    def glance(state: OnlineState, batch: Batch, key: Key) -> tuple[OnlineState, Array]:
        key_order, key_draw = jax.random.split(key)
        order = jax.random.permutation(key_order, batch.y.shape[0])
        batch = jax.tree.map(lambda leaf: leaf[order], batch)
        judged = joined(reservoir.draw(state.memory, replay, key_draw), batch)
        inner_rates, pull_back = jax.vjp(lambda learned: rates(learned, state.params), state.learned)
        seen = see_ahead(state.params, inner_rates, batch, judged, meta_loss)
        (learned_grads,) = pull_back(seen.rate_grads)
        params, new = update(
            state.params, state.learned, clip_norm(seen.grads, clip), clip_norm(learned_grads, clip)
        )
        return OnlineState(params, new, state.memory), seen.loss

    def observe(
        state: OnlineState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[OnlineState, Metrics]:
        key_first, key_add, key_rest = jax.random.split(key, 3)
        state, value = glance(state, batch, key_first)
        memory = reservoir.add(state.memory, batch, key_add, accept=first_pass)
        state = state._replace(memory=memory)
        if glances > 1:
            keys = jax.random.split(key_rest, glances - 1)
            state, _ = jax.lax.scan(lambda state, key: glance(state, batch, key), state, keys)
        return state, {"loss": value}

    return Online(init, observe, predictor(model))
