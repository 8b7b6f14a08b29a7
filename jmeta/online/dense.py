"""Steps on one example after another for a network whose first layer is dense, without updating its kernel.

Nearly all weights of a small network on images are in the first kernel W, and a look-ahead of one example at
a time would read and write all of them many times for every example. But the network sees W only through the
products x W, and each example's gradient in W is an outer product x_k d_k', so that after i steps

    x_q W_i = x_q W - sum_(k <= i) ((x_q * x_k) R) * d_k        with the rates R of W
    W_i = W - R * sum_(k <= i) x_k d_k'
    sum_i G_i = X' sum_i D_i
    sum_i G_i * S_i = sum_(k, q) (x_q * x_k) (d_k * E_kq)'      with E_k = sum_(i >= k) D_i

with the derivatives D_i of the judging loss in the products. The part of W is four matrix products in all.

The gradient in W on the examples k of a task is sum_k x_k d_k', so the products of such gradients are sums of
(x_k * x_q) (d_k * d_q), in which the first factor does not change with the weights.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jmeta.online.gem import PastGradients
from jmeta.online.mer import Steps
from jmeta.online.meta_replay import Ahead, LookAhead, MetaLoss
from jmeta.online.projection import Rows
from jmeta.online.sgd_state import batch_size, descend, single_examples
from jmeta.types import Array, Batch, BatchLoss, PyTree


def dense_steps(
    after: Callable[[PyTree, Array], Array],
    loss: BatchLoss,
    *,
    layer: str = "dense_0",
    kernel: str = "kernel",
) -> Steps:
    """Make `jmeta.online.mer.example_steps` in the form above; the same numbers but for rounding.

    The arguments are those of `dense_look_ahead`; returns `(params, rate, batch) -> (params, losses
    [example])`.
    """
    split, join = _first_kernel(layer, kernel)
    loss_after = _loss_after_products(after, loss)

    def steps(params: PyTree, rate: Array | float, batch: Batch) -> tuple[PyTree, Array]:
        first, rest = split(params)
        rate = jnp.asarray(rate, first.dtype)

        def step(carry: tuple, inputs: tuple) -> tuple[tuple, tuple[Array, Array]]:
            fast, products = carry
            example, index, similarity = inputs
            own = jax.lax.dynamic_slice_in_dim(products, index, 1)  # [1, unit]
            value, (grads, slope) = jax.value_and_grad(loss_after, argnums=(0, 1))(fast, own, example)
            products = products - rate * similarity[:, None] * slope  # [example, unit]
            return (descend(fast, rate, grads), products), (value, slope[0])

        similarities = batch.x @ batch.x.T  # [example, example]
        inputs = (single_examples(batch), jnp.arange(batch_size(batch)), similarities)
        (rest, _), (values, slopes) = jax.lax.scan(step, (rest, batch.x @ first), inputs)
        return join(first - rate * (batch.x.T @ slopes), rest), values  # slopes [example, unit]

    return steps


def dense_look_ahead(
    after: Callable[[PyTree, Array], Array],
    loss: BatchLoss,
    *,
    layer: str = "dense_0",
    kernel: str = "kernel",
) -> Ahead:
    """Make `jmeta.online.meta_replay.look_ahead` in the form above; the same numbers but for rounding.

    Args:
      after: `(params, products) -> outputs`, the network behind the products of its inputs [example, input]
        and its first kernel, which does not use that kernel (`jmeta.models.mlp.after_first_layer`).
      loss: `loss(outputs, batch) -> scalar`.
      layer, kernel: names of the layer and of its first kernel [input, unit] in the parameters.

    Returns:
      The function; the batch that it judges must end with the examples of the batch that it steps on.
    """

    split, join = _first_kernel(layer, kernel)
    loss_after = _loss_after_products(after, loss)

    def ahead(
        params: PyTree, rates: PyTree, batch: Batch, judged: Batch, meta_loss: MetaLoss = "mean"
    ) -> LookAhead:
        (first, rest), (first_rates, rest_rates) = split(params), split(rates)
        steps, number = batch_size(batch), batch_size(judged)
        pairs = (batch.x[:, None] * judged.x[None]).reshape(steps * number, -1)  # [step and judged, input]
        products = judged.x @ first  # [judged, unit]
        shifts = (pairs @ first_rates).reshape(steps, number, -1)  # [step, judged, unit]
        zeros = jax.tree.map(jnp.zeros_like, rest)

        def inner(carry: tuple, inputs: tuple) -> tuple[tuple, tuple[Array, Array]]:
            fast, total, products = carry
            example, index, shift = inputs
            own = jax.lax.dynamic_slice_in_dim(products, number - steps + index, 1)  # [1, unit]
            value, (grads, slope) = jax.value_and_grad(loss_after, argnums=(0, 1))(fast, own, example)
            total = jax.tree.map(jnp.add, total, grads)
            return (descend(fast, rest_rates, grads), total, products - shift * slope), (value, slope[0])

        def judge(carry: tuple, sums: tuple[PyTree, PyTree]) -> tuple[tuple[PyTree, PyTree], Array]:
            fast, total, products = carry
            grads, slopes = jax.grad(loss_after, argnums=(0, 1))(fast, products, judged)
            added = jax.tree.map(jnp.add, sums[0], grads)
            return (added, jax.tree.map(lambda s, g, t: s - g * t, sums[1], grads, total)), slopes

        def step(carry: tuple, inputs: tuple) -> tuple[tuple, tuple[Array, Array, Array]]:
            moved, (value, slope) = inner(carry[0], inputs)
            sums, slopes = judge(moved, carry[1])
            return (moved, sums), (value, slope, slopes)

        inputs = (single_examples(batch), jnp.arange(steps), shifts)
        start = (rest, zeros, products)
        if meta_loss == "mean":
            (_, sums), (values, slopes, outer) = jax.lax.scan(step, (start, (zeros, zeros)), inputs)
            sums, outer = jax.tree.map(lambda leaf: leaf / steps, (sums, outer))  # outer [step, judged, unit]
            later = jnp.cumsum(outer[::-1], axis=0)[::-1]  # E_k
        else:
            moved, (values, slopes) = jax.lax.scan(inner, start, inputs)
            sums, last = judge(moved, (zeros, zeros))
            later = jnp.broadcast_to(last[None], (steps, *last.shape))  # [step, judged, unit]
        first_grads = judged.x.T @ later[0]  # [input, unit]
        along_slopes = (slopes[:, None] * later).reshape(steps * number, -1)  # [step and judged, unit]
        first_rate_grads = -pairs.T @ along_slopes
        return LookAhead(join(first_grads, sums[0]), join(first_rate_grads, sums[1]), values.mean())

    return ahead


def dense_past_gradients(
    after: Callable[[PyTree, Array], Array],
    loss: BatchLoss,
    *,
    layer: str = "dense_0",
    kernel: str = "kernel",
) -> PastGradients:
    """Make `jmeta.online.gem.past_gradients` in the form above; the same numbers but for rounding.

    The arguments are those of `dense_look_ahead`.
    """
    split, join = _first_kernel(layer, kernel)
    loss_after = _loss_after_products(after, loss)

    def prepare(examples: Batch) -> Array:
        x = _flat(examples.x)
        return x @ x.T  # [task and slot, task and slot]

    def rows(params: PyTree, examples: Batch, similarities: Array) -> Rows:
        first, rest = split(params)
        tasks, slots = examples.x.shape[:2]
        x = _flat(examples.x)  # [task and slot, input]
        products = (x @ first).reshape(tasks, slots, -1)  # [task, slot, unit]
        slope_of = jax.vmap(jax.grad(loss_after, argnums=(0, 1)), in_axes=(None, 0, 0))
        rest_grads, slopes = slope_of(rest, products, examples)
        others = jax.vmap(lambda grads: ravel_pytree(grads)[0])(rest_grads)  # [task, other parameter]
        slopes = _flat(slopes)  # [task and slot, unit]

        def by_task(values: Array) -> Array:
            """Sum [..., task and slot] over the slots."""
            return values.reshape(*values.shape[:-1], tasks, slots).sum(-1)  # [..., task]

        def along(gradient: PyTree) -> Array:
            first_part, rest_part = split(gradient)
            return by_task(((x @ first_part) * slopes).sum(1)) + others @ ravel_pytree(rest_part)[0]

        def gram() -> Array:
            pairs = by_task(similarities * (slopes @ slopes.T))  # [task and slot, task]
            return by_task(pairs.T) + others @ others.T  # [task, task]

        def combine(v: Array) -> PyTree:
            return join(x.T @ (jnp.repeat(v, slots)[:, None] * slopes), ravel_pytree(rest)[1](v @ others))

        return Rows(along, gram, combine)

    return PastGradients(prepare, rows)


def _flat(leaf: Array) -> Array:
    """Reshape a leaf [task, slot, ...] to [task and slot, ...]."""
    return leaf.reshape(-1, *leaf.shape[2:])


def _loss_after_products(
    after: Callable[[PyTree, Array], Array], loss: BatchLoss
) -> Callable[[PyTree, Array, Batch], Array]:
    """Express the loss as a function of the other parameters, the first layer's products, and the batch."""
    return lambda rest, products, batch: loss(after(rest, products), batch)


def _first_kernel(
    layer: str, kernel: str
) -> tuple[Callable[..., tuple[Array, PyTree]], Callable[..., PyTree]]:
    """Make the two functions that take the first kernel out of the parameters, and that put it back."""

    def split(tree: PyTree) -> tuple[Array, PyTree]:
        rest = {name: part for name, part in tree[layer].items() if name != kernel}
        return tree[layer][kernel], {**tree, layer: rest}

    def join(first: Array, rest: PyTree) -> PyTree:
        return {**rest, layer: {kernel: first, **rest[layer]}}

    return split, join
