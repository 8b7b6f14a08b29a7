"""Examples that fit the slots of a memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jmeta.types import Array, Batch, PyTree


def require_fit(who: str, held: PyTree, new: PyTree, *, axes: int = 1) -> None:
    """Raise ValueError unless the leaves of `new` fit the slots of `held`.

    Beyond the first `axes` of its axes a leaf must have the shape of a slot, and be of the same kind
    (integers or floating numbers), so that nothing is repeated or rounded without a word.
    """
    structures: list[Any] = [jax.tree.structure(tree) for tree in (held, new)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"{who}: the memory holds {structures[0]}, the batch is {structures[1]}; "
            "initialize the learner with a batch like those of the stream"
        )
    for slots, leaf in zip(jax.tree.leaves(held), jax.tree.leaves(new)):
        same_kind = jnp.issubdtype(slots.dtype, jnp.floating) == jnp.issubdtype(leaf.dtype, jnp.floating)
        if slots.shape[1:] != leaf.shape[axes:] or not same_kind:
            raise ValueError(
                f"{who}: the memory holds {slots.dtype}{list(slots.shape[1:])}, the batch has "
                f"{leaf.dtype}{list(leaf.shape[axes:])}; initialize the learner with a batch like "
                "those of the stream"
            )


def arrivals(batch: Batch) -> tuple[Array, Array | int, Array]:
    """Number the real examples of a batch: (place [example] int32, count, real [example] bool).

    `place` is the number of real examples before each; without a mask all are real.
    """
    if batch.mask is None:
        count = jax.tree.leaves(batch.x)[0].shape[0]
        return jnp.arange(count, dtype=jnp.int32), count, jnp.ones(count, bool)
    real = batch.mask > 0
    place = jnp.cumsum(real, dtype=jnp.int32)
    return place - 1, place[-1], real
