"""Steps on one example after another for a network whose first layer is dense, without stepping its kernel.

Nearly all weights of a small network on images are in the first kernel W, and a look-ahead of one example at
a time would read and write all of them many times for every example. But the network sees W only through the
products x W, and each example's gradient of W is an outer product x_k d_k', so that after i steps

    x_q W_i = x_q W - sum_(k <= i) ((x_q * x_k) R) * d_k        with the rates R of W
    W_i = W - R * sum_(k <= i) x_k d_k'
    sum_i G_i = X' sum_i D_i
    sum_i G_i * S_i = sum_(k, q) (x_q * x_k) (d_k * E_kq)'      with E_k = sum_(i >= k) D_i

where D_i are the judging loss' derivatives in the products. All of W's part is four matrix products.

The gradient of W on the examples k of a task is sum_k x_k d_k', so the products of such gradients are sums of
(x_k * x_q) (d_k * d_q), of which the first factor does not change with the weights.
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
from jmeta.online.state import descend, examples_of
from jmeta.types import Array, Batch, PyTree


def dense_steps(
    after: Callable[[PyTree, Array], Array],
    loss: Callable[[Array, Batch], Array],
    *,
    layer: str = "dense_0",
    kernel: str = "kernel",
) -> Steps:
    """`jmeta.online.mer.steps` in the form above; the same numbers but for rounding.

    The arguments are those of `dense_look_ahead`; returns `(params, rate, batch) -> (params, losses
    [example])`.
    """
    split, joined = _parts(layer, kernel)
    measure = _after_products(after, loss)

    def steps(params: PyTree, rate: Array | float, batch: Batch) -> tuple[PyTree, Array]:
        first, rest = split(params)
        rate = jnp.asarray(rate, first.dtype)

        def step(carry: tuple, inputs: tuple) -> tuple[tuple, tuple[Array, Array]]:
            fast, products = carry
            example, index, alike = inputs
            own = jax.lax.dynamic_slice_in_dim(products, index, 1)
            value, (grads, slope) = jax.value_and_grad(measure, argnums=(0, 1))(fast, own, example)
            moved = products - rate * alike[:, None] * slope
            return (descend(fast, rate, grads), moved), (value, slope[0])

        inputs = (examples_of(batch), jnp.arange(batch.y.shape[0]), batch.x @ batch.x.T)
        (rest, _), (values, slopes) = jax.lax.scan(step, (rest, batch.x @ first), inputs)
        return joined(first - rate * (batch.x.T @ slopes), rest), values

    return steps


def dense_look_ahead(
    after: Callable[[PyTree, Array], Array],
    loss: Callable[[Array, Batch], Array],
    *,
    layer: str = "dense_0",
    kernel: str = "kernel",
) -> Ahead:
    """`jmeta.online.meta_replay.look_ahead` in the form above; the same numbers but for rounding.

    Args:
      after: `(params, products) -> outputs`, what the network makes of the products of its inputs [example,
        input] and its first kernel, without looking at that kernel (`jmeta.models.mlp.after_first_layer`).
      loss: `loss(outputs, batch) -> scalar`.
      layer, kernel: where in the parameters the first kernel [input, unit] is.

    Returns:
      The function; the batch that it judges must end with the examples of the batch that it steps on.
    """

    split, joined = _parts(layer, kernel)
    measure = _after_products(after, loss)

    def ahead(
        params: PyTree, rates: PyTree, batch: Batch, judged: Batch, meta_loss: MetaLoss = "mean"
    ) -> LookAhead:
        (first, rest), (first_rates, rest_rates) = split(params), split(rates)
        steps, number = batch.y.shape[0], judged.y.shape[0]
        pairs = (batch.x[:, None] * judged.x[None]).reshape(steps * number, -1)
        products = judged.x @ first
        shifts = (pairs @ first_rates).reshape(steps, number, -1)
        zeros = jax.tree.map(jnp.zeros_like, rest)

        def inner(carry: tuple, inputs: tuple) -> tuple[tuple, tuple[Array, Array]]:
            fast, total, products = carry
            example, index, shift = inputs
            own = jax.lax.dynamic_slice_in_dim(products, number - steps + index, 1)
            value, (grads, slope) = jax.value_and_grad(measure, argnums=(0, 1))(fast, own, example)
            total = jax.tree.map(jnp.add, total, grads)
            return (descend(fast, rest_rates, grads), total, products - shift * slope), (value, slope[0])

        def judge(carry: tuple, sums: tuple[PyTree, PyTree]) -> tuple[tuple[PyTree, PyTree], Array]:
            fast, total, products = carry
            grads, slopes = jax.grad(measure, argnums=(0, 1))(fast, products, judged)
            added = jax.tree.map(jnp.add, sums[0], grads)
            return (added, jax.tree.map(lambda s, g, t: s - g * t, sums[1], grads, total)), slopes

        def step(carry: tuple, inputs: tuple) -> tuple[tuple, tuple[Array, Array, Array]]:
            moved, (value, slope) = inner(carry[0], inputs)
            sums, slopes = judge(moved, carry[1])
            return (moved, sums), (value, slope, slopes)

        inputs = (examples_of(batch), jnp.arange(steps), shifts)
        begin = (rest, zeros, products)
        if meta_loss == "mean":
            (_, sums), (values, slopes, outer) = jax.lax.scan(step, (begin, (zeros, zeros)), inputs)
            sums, outer = jax.tree.map(lambda leaf: leaf / steps, (sums, outer))
            later = jnp.cumsum(outer[::-1], axis=0)[::-1]  # E_k
        else:
            moved, (values, slopes) = jax.lax.scan(inner, begin, inputs)
            sums, last = judge(moved, (zeros, zeros))
            later = jnp.broadcast_to(last[None], (steps, *last.shape))
        first_grads = judged.x.T @ later[0]
        first_rate_grads = -pairs.T @ (slopes[:, None] * later).reshape(steps * number, -1)
        return LookAhead(joined(first_grads, sums[0]), joined(first_rate_grads, sums[1]), values.mean())

    return ahead


def dense_past_gradients(
    after: Callable[[PyTree, Array], Array],
    loss: Callable[[Array, Batch], Array],
    *,
    layer: str = "dense_0",
    kernel: str = "kernel",
) -> PastGradients:
    """`jmeta.online.gem.one_by_one` in the form above; the same numbers but for rounding.

    The arguments are those of `dense_look_ahead`.
    """
    split, joined = _parts(layer, kernel)
    measure = _after_products(after, loss)

    def prepare(examples: Batch) -> Array:
        x = _flat(examples.x)
        return x @ x.T

    def rows(params: PyTree, examples: Batch, alike: Array) -> Rows:
        first, rest = split(params)
        tasks, slots = examples.y.shape
        x = _flat(examples.x)
        products = (x @ first).reshape(tasks, slots, -1)
        slope_of = jax.vmap(jax.grad(measure, argnums=(0, 1)), in_axes=(None, 0, 0))
        rest_grads, slopes = slope_of(rest, products, examples)
        others = jax.vmap(lambda grads: ravel_pytree(grads)[0])(rest_grads)
        slopes = _flat(slopes)

        def by_task(values: Array) -> Array:
            return values.reshape(*values.shape[:-1], tasks, slots).sum(-1)

        def along(gradient: PyTree) -> Array:
            first_part, rest_part = split(gradient)
            return by_task(((x @ first_part) * slopes).sum(1)) + others @ ravel_pytree(rest_part)[0]

        def gram() -> Array:
            pairs = by_task(alike * (slopes @ slopes.T))
            return by_task(pairs.T) + others @ others.T

        def combine(v: Array) -> PyTree:
            return joined(x.T @ (jnp.repeat(v, slots)[:, None] * slopes), ravel_pytree(rest)[1](v @ others))

        return Rows(along, gram, combine)

    return PastGradients(prepare, rows)


def _flat(leaf: Array) -> Array:
    """A leaf [task, slot, ...] as [task and slot, ...]."""
    return leaf.reshape(-1, *leaf.shape[2:])


def _after_products(
    after: Callable[[PyTree, Array], Array], loss: Callable[[Array, Batch], Array]
) -> Callable[[PyTree, Array, Batch], Array]:
    """The loss as a function of the other parameters, the first layer's products, and the batch."""
    return lambda rest, products, batch: loss(after(rest, products), batch)


def _parts(layer: str, kernel: str) -> tuple[Callable[..., tuple[Array, PyTree]], Callable[..., PyTree]]:
    """What takes the first kernel out of the parameters, and what puts it back."""

    def split(tree: PyTree) -> tuple[Array, PyTree]:
        rest = {name: part for name, part in tree[layer].items() if name != kernel}
        return tree[layer][kernel], {**tree, layer: rest}

    def joined(first: Array, rest: PyTree) -> PyTree:
        return {**rest, layer: {kernel: first, **rest[layer]}}

    return split, joined
