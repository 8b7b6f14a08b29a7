import jax
import jax.numpy as jnp
import numpy as np
from draw_helpers import assert_uniform, keys

from jmeta.data.sampling import sample_distinct, uniform_below


def test_ordered_samples_are_equally_likely():
    draws = jax.jit(jax.vmap(lambda key: sample_distinct(key, jnp.int32(4), 3)))(keys(12_000))
    samples, counts = np.unique(np.asarray(draws), axis=0, return_counts=True)
    assert len(samples) == 24
    assert_uniform(counts)


def test_uniform_below_is_sixty_four_bits_modulo_the_total():
    total = np.array([1, 2, 3, 1000, 65521], np.int32)
    words = np.asarray(jax.random.bits(jax.random.key(3), (32,), jnp.uint32)).astype(object)
    expected = [(int(words[i]) * 2**32 + int(words[5 + i])) % int(total[i]) for i in range(5)]
    np.testing.assert_array_equal(uniform_below(jax.random.key(3), jnp.asarray(total)), expected)
