"""Minibatches of a small set of examples, drawn without replacement within a pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key


def draw_minibatches(key: Key, count: int, batch: int, steps: int, mask: Array | None = None) -> Array:
    """Draw the rows [step, batch] of the minibatches of `steps` steps from `count` examples.

    The examples are shuffled and cut into batches; when all were used they are shuffled anew, so that a batch
    may straddle two passes (as in Reptile's code). Examples of `mask` [example] 0 are never drawn.
    """
    draws = steps * batch
    passes = -(-draws // (count if mask is None else 1))  # a mask may leave one example
    # By its own key for each pass and example, so that padding changes no draw.
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(passes))
    score = jax.vmap(lambda key, row: jax.random.uniform(jax.random.fold_in(key, row)), (None, 0))
    scores = jax.vmap(score, (0, None))(keys, jnp.arange(count))  # [pass, example]
    if mask is None:
        return jnp.argsort(scores, axis=1).reshape(-1)[:draws].reshape(steps, batch)
    real = mask > 0
    order = jnp.argsort(jnp.where(real[None], scores, 2.0), axis=1)  # the real ones first [pass, example]
    position, size = jnp.arange(draws, dtype=jnp.int32), jnp.maximum(real.sum(), 1)
    return order[position // size, position % size].reshape(steps, batch)
