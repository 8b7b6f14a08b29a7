import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jmeta.online.batch_buffer import empty_buffer, push_batch
from jmeta.online.reservoir import add_to_reservoir, draw_from_reservoir, empty_reservoir
from jmeta.online.task_memory import add_to_task_memory, empty_task_memory
from jmeta.types import Batch


def filled_with(stream_length, capacity, batch, runs, seed=0):
    """What `runs` reservoirs hold after examples 0, 1, ..., [run, slot]."""
    batches = jnp.arange(stream_length, dtype=jnp.int32).reshape(-1, batch)
    blank = empty_reservoir(capacity, Batch(batches[0], batches[0]))

    def one(key):
        def step(held, inputs):
            values, key = inputs
            return add_to_reservoir(held, Batch(values, values), key), None

        return jax.lax.scan(step, blank, (batches, jax.random.split(key, len(batches))))[0]

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), runs))


def test_every_subset_is_equally_likely():
    runs, capacity, length = 6000, 3, 8
    held = np.sort(np.asarray(filled_with(length, capacity, 2, runs).x), axis=1)
    index = {subset: number for number, subset in enumerate(itertools.combinations(range(length), capacity))}
    counts = np.bincount([index[tuple(row)] for row in held], minlength=len(index))  # KeyError: a duplicate
    assert len(index) == 56
    assert stats.chisquare(counts).pvalue > 1e-3


def test_every_example_is_held_as_often_whatever_the_batch():
    for batch in (1, 5, 20):
        held = np.asarray(filled_with(40, 10, batch, 2000, seed=batch).x)
        counts = np.bincount(held.ravel(), minlength=40)
        assert counts.sum() == 20000
        # the counts of one run sum to 10, so this is conservative
        assert stats.chisquare(counts).pvalue > 1e-3
        assert all(len(set(row)) == 10 for row in held.tolist())


def test_draws_are_uniform_over_what_is_held_and_masked_beyond():
    values = jnp.arange(3, dtype=jnp.int32)
    held = empty_reservoir(8, Batch(values, values))
    assert draw_from_reservoir(held, 5, jax.random.key(0)).mask.tolist() == [0] * 5
    held = add_to_reservoir(held, Batch(values, values), jax.random.key(0))
    drawn = draw_from_reservoir(held, 5, jax.random.key(1))
    assert drawn.mask.tolist() == [1, 1, 1, 0, 0] and drawn.x.max() < 3
    many = jax.vmap(lambda key: draw_from_reservoir(held, 3, key).y)(
        jax.random.split(jax.random.key(2), 1000)
    )
    assert stats.chisquare(np.bincount(np.asarray(many).ravel(), minlength=3)).pvalue > 1e-3


def test_nothing_enters_where_nothing_is_accepted():
    values = jnp.arange(4, dtype=jnp.int32) + 1
    held = empty_reservoir(2, Batch(values, values))
    for accept in (False, jnp.asarray(False)):
        after = add_to_reservoir(held, Batch(values, values), jax.random.key(0), accept=accept)
        assert after.seen == 0 and after.x.tolist() == [0, 0]


def test_padding_is_not_offered():
    values, mask = jnp.arange(6, dtype=jnp.int32), jnp.array([1.0, 0, 1, 0, 0, 1])
    blank = empty_reservoir(4, Batch(values, values))
    held = add_to_reservoir(blank, Batch(values, values, mask), jax.random.key(0))
    assert held.seen == 3 and held.y.tolist() == [0, 2, 5, 0]
    full = add_to_reservoir(held, Batch(values, values, mask), jax.random.key(1))
    assert full.seen == 6 and set(full.y.tolist()) <= {0, 2, 5}


def test_a_ring_of_a_task_keeps_real_examples():
    values, mask = jnp.arange(6, dtype=jnp.int32), jnp.array([0.0, 1, 0, 1, 0, 1])
    blank = empty_task_memory(2, 2, Batch(values, values))
    memory = add_to_task_memory(blank, Batch(values, values, mask), 1)
    assert memory.seen.tolist() == [0, 2] and memory.y[1].tolist() == [1, 3]


def test_examples_unlike_those_of_the_memory():
    """A target would be cut to an integer, and an image of one pixel repeated, without a word."""
    batch = Batch(jnp.zeros((2, 3)), jnp.zeros(2, int))
    reservoir, buffer = empty_reservoir(4, batch), empty_buffer(4, batch)
    ring = empty_task_memory(1, 4, batch)
    for other in (batch._replace(y=jnp.array([0.5, 0.7])), batch._replace(x=jnp.zeros((2, 1)))):
        for add, memory, key in (
            (add_to_reservoir, reservoir, jax.random.key(0)),
            (add_to_task_memory, ring, 0),
        ):
            with pytest.raises(ValueError, match="the memory holds .* the batch has float"):
                add(memory, other, key)
        with pytest.raises(ValueError, match="the memory holds .* the batch has float"):
            push_batch(buffer, other)
    with pytest.raises(ValueError, match="the memory holds float"):
        push_batch(buffer, Batch(batch.x[:1], batch.y))
