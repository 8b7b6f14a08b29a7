"""Look-ahead meta-replay, the common core of La-MAML and its relatives (Gupta et al., NeurIPS 2020).

Each glance at a batch takes one inner step for each of its examples, and judges every intermediate result by
the loss on the batch and a replay draw together. All derivatives are first order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jmeta.online.reservoir import add_to_reservoir, draw_from_reservoir, empty_reservoir
from jmeta.online.sgd_state import (
    OnlineState,
    ParamsLoss,
    batch_size,
    clip_by_norm,
    concatenate_batches,
    descend,
    example_batch,
    init_params,
    params_loss,
    predictor,
    require_positive,
    single_examples,
)
from jmeta.types import Array, Batch, BatchLoss, Context, Key, Metrics, Model, Online, PyTree

MetaLoss = Literal["mean", "last"]


class LookAhead(NamedTuple):
    """The result of one glance: the gradients of the meta-loss in the weights, `grads`, and in the inner
    learning rates, `rate_grads`; `loss` [] is the mean over the batch's examples, each before its step."""

    grads: PyTree
    rate_grads: PyTree
    loss: Array


# (params, rates, batch, judged, meta_loss) -> LookAhead; `judged` ends with the examples of `batch`.
Ahead = Callable[[PyTree, PyTree, Batch, Batch, MetaLoss], LookAhead]


def look_ahead(
    loss: ParamsLoss,
    params: PyTree,
    rates: PyTree,
    batch: Batch,
    judged: Batch,
    meta_loss: MetaLoss = "mean",
) -> LookAhead:
    """Take inner steps phi_i = phi_(i-1) - rates * g_i on the examples of `batch`, judged on `judged`.

    With G_i the gradient of the judging loss at phi_i, the returned gradients are those of the mean of the
    judging losses over all i ("mean": the released code), or of the last one ("last": eq. 8 of von Oswald et
    al.), in first order: mean_i G_i in the weights, - mean_i G_i * sum_(k <= i) g_k in the rates.
    """
    count = batch_size(batch)
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
            step, (params, zeros, zeros, zeros), single_examples(batch)
        )
        grads, rate_grads = jax.tree.map(lambda leaf: leaf / count, (grads, rate_grads))
    else:
        moved, values = jax.lax.scan(inner, (params, zeros), single_examples(batch))
        grads, rate_grads = judge(*moved, (zeros, zeros))
    return LookAhead(grads, rate_grads, values.mean())


def meta_replay(
    who: str,
    model: Model,
    loss: BatchLoss,
    *,
    learned: Callable[[PyTree], PyTree],
    rates: Callable[[PyTree, PyTree], PyTree],
    update: Callable[[PyTree, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    glances: int = 5,
    capacity: int = 200,
    replay: int = 10,
    clip_norm: float | None = 2.0,
    meta_loss: MetaLoss = "mean",
    ahead: Ahead | None = None,
) -> Online:
    """Make a learner whose glances look ahead with inner rates that it learns beside the weights.

    Args:
      who: the learner's name in errors.
      model, loss: the network (without state), and `loss(outputs, batch) -> scalar`.
      learned: `params -> learned`, the initial value of what is learned beside the weights.
      rates: `(learned, params) -> rates` like the parameters, differentiable in `learned`.
      update: `(params, learned, grads, learned_grads) -> (params, learned)`, with both gradients clipped.
      glances: meta-updates on each batch, each with a replay draw and an order of its own.
      capacity, replay: slots of the reservoir, and examples of a draw. Examples enter after the first glance
        of the first pass.
      clip_norm: largest global norm of each gradient, None for no limit.
      meta_loss: see `look_ahead`.
      ahead: another way to compute `look_ahead`, such as `jmeta.online.dense.dense_look_ahead`.

    Raises:
      ValueError: for numbers that are not positive and an unknown meta-loss.
    """
    require_positive(who, glances=glances, capacity=capacity, replay=replay, clip_norm=clip_norm)
    if meta_loss not in get_args(MetaLoss):
        raise ValueError(f"{who}: meta_loss={meta_loss!r}; expected one of {', '.join(get_args(MetaLoss))}")
    see_ahead = ahead or functools.partial(look_ahead, params_loss(model, loss))

    def init(key: Key, x: PyTree) -> OnlineState:
        params = init_params(model, key, x)
        return OnlineState(params, learned(params), empty_reservoir(capacity, example_batch(x)))

    def glance(state: OnlineState, batch: Batch, key: Key) -> tuple[OnlineState, Array]:
        # A new order of the batch, and a replay draw to judge it with
        key_order, key_draw = jax.random.split(key)
        order = jax.random.permutation(key_order, batch_size(batch))
        batch = jax.tree.map(lambda leaf: leaf[order], batch)
        judged = concatenate_batches(draw_from_reservoir(state.memory, replay, key_draw), batch)
        # Gradients in the weights, in the inner rates, and through these in what is learned
        inner_rates, pull_back = jax.vjp(lambda learned: rates(learned, state.params), state.learned)
        result = see_ahead(state.params, inner_rates, batch, judged, meta_loss)
        (learned_grads,) = pull_back(result.rate_grads)
        grads, learned_grads = (clip_by_norm(tree, clip_norm) for tree in (result.grads, learned_grads))
        params, new = update(state.params, state.learned, grads, learned_grads)
        return OnlineState(params, new, state.memory), result.loss

    def observe(
        state: OnlineState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[OnlineState, Metrics]:
        context = Context() if context is None else context
        key_first, key_add, key_rest = jax.random.split(key, 3)
        state, value = glance(state, batch, key_first)
        memory = add_to_reservoir(state.memory, batch, key_add, accept=context.first_pass)
        state = state._replace(memory=memory)
        if glances > 1:
            keys = jax.random.split(key_rest, glances - 1)
            state, _ = jax.lax.scan(lambda state, key: glance(state, batch, key), state, keys)
        return state, {"loss": value}

    return Online(init, observe, predictor(model))
