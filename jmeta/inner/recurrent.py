"""Unroll a memory over a stream by one scan, with rematerialization and truncated backpropagation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jmeta.tree import require_same
from jmeta.types import Array, Key, Memory, PyTree, Stream


class Unrolled(NamedTuple):
    """A memory at the end of a stream: `outputs` [time, ...], the last `carry` and the new `state`."""

    outputs: PyTree
    carry: PyTree
    state: PyTree


def unroll(
    memory: Memory,
    params: PyTree,
    state: PyTree,
    stream: Stream,
    *,
    remat_every: int | None = None,
    truncate_every: int | None = None,
    carry: PyTree = None,
    train: bool = True,
    key: Key | None = None,
) -> Unrolled:
    """Run a memory over a stream. A step whose mask is 0 leaves the memory as it is.

    Args:
      memory: the learner.
      params: its parameters.
      state: its state, as `init` returned it.
      stream: `x` [time, ...], `feedback` [time] and `mask` [time]; `y` is not read. Padding is best last, so
        that labels arrive at real steps.
      remat_every: store the carry of every so many steps for the reverse pass and recompute the others; None
        stores every carry and matrix product.
      truncate_every: cut the gradient through the carry at every so many steps; None never.
      carry: the carry to go on from; None for the memory's initial one.
      train: for the memory's `prepare`.
      key: for its noise.

    Raises:
      ValueError: for periods below 1, parts of a stream that differ in length, or a step whose carry changes
        its shape.
    """
    for name, period in {"remat_every": remat_every, "truncate_every": truncate_every}.items():
        if period is not None and period < 1:
            raise ValueError(f"unroll: {name}={period}; expected at least 1, or None")
    _check_lengths(stream)
    inputs, state = memory.prepare(
        params, state, stream.x, stream.feedback, train=train, key=key, mask=stream.mask
    )
    carry = memory.carry(params, inputs) if carry is None else carry

    def step(carry: PyTree, indexed: tuple[Array, PyTree, Array | None]) -> tuple[PyTree, PyTree]:
        index, now, real = indexed
        if truncate_every is not None:
            cut = index % truncate_every == 0
            carry = jax.tree.map(lambda leaf: jnp.where(cut, jax.lax.stop_gradient(leaf), leaf), carry)
        after, outputs = memory.step(params, carry, now)
        require_same("unroll: the memory's carry", carry, after)
        if real is not None:
            after = jax.tree.map(lambda new, old: jnp.where(real > 0, new, old), after, carry)
        return after, outputs

    time = jax.tree.leaves(inputs)[0].shape[0]
    indexed = (jnp.arange(time, dtype=jnp.int32), inputs, stream.mask)
    carry, outputs = _scan(step, carry, indexed, time, remat_every)
    return Unrolled(outputs, carry, state)


def _check_lengths(stream: Stream) -> None:
    parts = {"x": stream.x, "feedback": stream.feedback, "mask": stream.mask}
    lengths = {name: leaf.shape[0] for name, part in parts.items() for leaf in jax.tree.leaves(part)}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"unroll: a stream whose parts have different lengths ({described} steps)")


def _scan(
    step: Callable[..., Any], carry: PyTree, inputs: PyTree, time: int, remat_every: int | None
) -> tuple[PyTree, PyTree]:
    """Scan over time, storing the carry of every `remat_every` steps for the reverse pass.

    If `remat_every` is None the carry of every step is stored, with the results of its matrix products:
    everything between those is cheaper to recompute than to store.
    """
    products = jax.checkpoint_policies.dots_saveable
    step = jax.checkpoint(step, prevent_cse=False, policy=products)
    if remat_every is None:
        return jax.lax.scan(step, carry, inputs)

    @jax.checkpoint
    def segment(carry: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        return jax.lax.scan(step, carry, inputs)

    whole = time - time % remat_every
    # [segment, remat_every, ...]
    parts = jax.tree.map(lambda a: a[:whole].reshape(-1, remat_every, *a.shape[1:]), inputs)
    carry, outputs = jax.lax.scan(segment, carry, parts)
    outputs = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), outputs)  # [time, ...]
    if whole < time:
        carry, rest = segment(carry, jax.tree.map(lambda a: a[whole:], inputs))
        outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, rest)
    return carry, outputs
