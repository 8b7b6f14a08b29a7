"""Uniform integers drawn on the device, with and without replacement.

A draw without replacement is a bijection of independent uniform integers (`sample_distinct`): there are no
ties to break, as there are in a sort of random bits, and the cost does not grow with the number of classes or
examples. Below 2^16 classes, or examples in a class, no probability is off by more than a part in 2^48.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jmeta.bounds import require_within
from jmeta.types import Array, Key


def uniform_below(key: Key, total: Array) -> Array:
    """Draw independent integers, uniform in 0..total - 1: int32 of the shape of `total` (int32, positive).

    A value is 64 random bits modulo `total`. The bits come from one call of the generator, which is a large
    piece of program (`jax.random.randint` makes three), with one long axis, for which XLA compiles it fast.
    """
    words = jax.random.bits(key, (max(2 * total.size, 32),), jnp.uint32)
    high, low = words[: 2 * total.size].reshape(2, *total.shape)  # each of the shape of total
    modulus = total.astype(jnp.uint32)
    carry = (jnp.uint32(0xFFFFFFFF) % modulus + 1) % modulus  # 2^32 modulo total
    return (((high % modulus) * carry + low % modulus) % modulus).astype(jnp.int32)


def sample_distinct(key: Key, total: Array, number: int) -> Array:
    """Draw ordered samples without replacement: int32 [..., number] below `total` [...] (int32, >= number).

    Every ordered sample is equally likely. Digit i, uniform below total - i, counts the values smaller than
    the i-th sample that are still free (the Lehmer code of the sample); decoding it is the bijection.
    Raises ValueError for a concrete `total` below number.
    """
    reason = f"a sample of {number} without replacement"
    require_within("sample_distinct", "total", total, number, np.iinfo(np.int32).max, reason)
    index = jnp.broadcast_to(jnp.arange(number, dtype=jnp.int32), (*total.shape, number))
    digits = uniform_below(key, total[..., None] - index)

    def skip_taken(step: Array, values: Array) -> Array:
        position = number - 2 - step
        taken = lax.dynamic_slice_in_dim(values, position, 1, axis=-1)
        return values + ((index > position) & (values >= taken)).astype(jnp.int32)

    return lax.fori_loop(0, number - 1, skip_taken, digits)
