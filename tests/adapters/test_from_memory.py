"""A memory as an adapter: queries are steps after the stream that leave no trace."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta.memory.readout import logits
from jmeta.outer.episode import adapt_and_predict

WAY = 4
MEMORIES = {
    "cl_lstm": jmeta.cl_lstm(WAY, filters=2, hidden=3),
    "lstm": jmeta.lstm(WAY, hidden=3),
    "cpm": jmeta.cpm(WAY, jmeta.conv_encoder(filters=2, groups=1, pooled=[True]), hidden=3),
}


def draw_task(delay=1):
    keys = jax.random.split(jax.random.key(1), 2)
    y = jnp.array([2, 2, 0, 0, 3, 1], jnp.int32)
    feedback = jnp.concatenate([jnp.full(delay, -1, jnp.int32), y[:-delay]])
    stream = jmeta.Stream(jax.random.normal(keys[0], (6, 8, 8, 1)), y, feedback)
    query = jmeta.Batch(jax.random.normal(keys[1], (4, 8, 8, 1)), jnp.array([3, 0, 2, 2], jnp.int32))
    return jmeta.Task(stream, query)


def predict(adapter, meta, task, x):
    return adapt_and_predict(adapter, meta, {}, task.support, x, jax.random.key(0), train=False)[0]


@pytest.mark.parametrize(("name", "delay"), [("cl_lstm", 1), ("lstm", 2), ("cpm", 1)])
def test_a_query_is_the_step_after_the_stream(name, delay):
    """Each query by itself at the end of the stream, where the next label arrives, gives the same logits."""
    memory, task = MEMORIES[name], draw_task(delay)
    meta, _ = jax.jit(memory.init)(jax.random.key(0), task.support.x)
    adapter = jmeta.from_memory(memory, delay=delay)
    outputs = jax.jit(lambda meta, x: predict(adapter, meta, task, x))(meta, task.query.x)

    @jax.jit
    def last_step(x):
        arriving = task.support.y[-delay][None]
        longer = jmeta.Stream(
            jnp.concatenate([task.support.x, x[None]]), None,
            jnp.concatenate([task.support.feedback, arriving]),
        )  # fmt: skip
        return logits(jmeta.unroll(memory, meta, {}, longer, train=False)[0])[-1]

    for x, output in zip(task.query.x, outputs):
        np.testing.assert_allclose(output, last_step(x), rtol=1e-9, atol=1e-12)


def test_queries_know_nothing_of_each_other_and_change_nothing():
    memory, task = MEMORIES["lstm"], draw_task()
    meta, _ = jax.jit(memory.init)(jax.random.key(0), task.support.x)
    adapter = jmeta.from_memory(memory)
    answer = jax.jit(lambda x: predict(adapter, meta, task, x))
    outputs = answer(task.query.x)
    np.testing.assert_allclose(answer(task.query.x[::-1]), outputs[::-1], rtol=1e-12)
    np.testing.assert_allclose(answer(task.query.x[:2]), outputs[:2], rtol=1e-12)
    fast, state, _ = adapter.adapt(meta, {}, task.support, None, train=False)
    _, carry, _ = jmeta.unroll(memory, meta, {}, task.support, train=False)
    jax.tree.map(np.testing.assert_array_equal, fast.carry, carry)
    twice = [adapter.predict(meta, fast, state, task.query.x, None, train=False)[0] for _ in range(2)]
    np.testing.assert_array_equal(*twice)


def test_the_last_label_enters_only_the_queries():
    memory, task = MEMORIES["lstm"], draw_task()
    meta, _ = jax.jit(memory.init)(jax.random.key(0), task.support.x)
    adapter = jmeta.from_memory(memory)
    adapt = jax.jit(lambda stream: adapter.adapt(meta, {}, stream, None, train=False)[0])
    other = task.support._replace(y=task.support.y.at[-1].set(0))
    first, second = adapt(task.support), adapt(other)
    jax.tree.map(np.testing.assert_array_equal, first.carry, second.carry)
    answer = jax.jit(lambda fast: adapter.predict(meta, fast, {}, task.query.x, None, train=False)[0])
    assert (answer(first) != answer(second)).any()
    earlier = task.support._replace(feedback=task.support.feedback.at[-1].set(0))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (first.carry, adapt(earlier).carry))))


def test_rematerialized_and_truncated_memories_train_through_the_stream():
    """Equal gradients with and without rematerialization; none through a state that is always cut."""
    memory, task = MEMORIES["lstm"], draw_task()
    tasks = jax.tree.map(lambda leaf: leaf[None], task)
    grads = []
    for options in ({}, {"remat_every": 2}, {"truncate_every": 1}):
        learner = jmeta.learner(jmeta.from_memory(memory, **options), jmeta.cross_entropy, optax.sgd(1.0))
        state = learner.init(jax.random.key(0), task)
        after, _ = jax.jit(learner.step)(state, tasks)
        grads.append(jax.tree.map(lambda a, b: a - b, state.meta, after.meta))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), grads[0], grads[1])
    assert (np.asarray(grads[0].cells[0].recurrent) != np.asarray(grads[2].cells[0].recurrent)).any()


ON_VECTORS = {
    "lstm": jmeta.lstm(3, hidden=4),
    "ntm": jmeta.ntm(3, hidden=4, slots=6),
    "apl": jmeta.apl(3, jmeta.mlp(widths=(4,))),
    "opn": jmeta.opn(3, jmeta.mlp(widths=(4,))),
    "cpm": jmeta.cpm(3, jmeta.mlp(widths=(4,)), hidden=4),
}


def draw_vectors():
    x = jax.random.normal(jax.random.key(0), (8, 4), jnp.float32)
    return jmeta.Stream(x[:5], jnp.array([0, 1, 2, 0, 1]), jnp.array([-1, 0, 1, 2, 0])), x[5:]


@pytest.mark.parametrize("name", ON_VECTORS)
def test_a_padded_stream_is_its_real_part(name):
    """The same logits for queries, and the last carry; a stream of labels out of range answers nothing."""
    memory, (stream, queries) = ON_VECTORS[name], draw_vectors()
    meta, _ = memory.init(jax.random.key(1), stream.x)
    adapter = jmeta.from_memory(memory)
    answer = jax.jit(lambda stream: predict(adapter, meta, jmeta.Task(stream, None), queries))
    real = jax.tree.map(lambda leaf: leaf[:3], stream)
    padded = stream._replace(y=stream.y.at[3:].set(-1), mask=jnp.array([1.0, 1.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(answer(padded), answer(real), atol=1e-6)
    ends = [jmeta.unroll(memory, meta, {}, part).carry for part in (padded, real)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *ends)
    for feedback in ([-1, 0, 3, 2, 0], [-1, 0, -2, 2, 0]):
        assert np.isnan(answer(stream._replace(feedback=jnp.array(feedback)))).all()
        with pytest.raises(ValueError, match=f"{name}: feedback run from .*; expected -1..2"):
            jmeta.unroll(memory, meta, {}, stream._replace(feedback=jnp.array(feedback)))
    assert np.isnan(answer(stream._replace(y=stream.y.at[-1].set(3)))).all()


def test_the_label_after_a_padded_stream():
    """The last real one; none if fewer steps are real than labels take to arrive."""
    adapter, (stream, _) = jmeta.from_memory(ON_VECTORS["lstm"], delay=2), draw_vectors()
    stream = stream._replace(feedback=jnp.array([-1, -1, 0, 1, 2]))
    meta, _ = ON_VECTORS["lstm"].init(jax.random.key(1), stream.x)
    for mask, label in (([1, 1, 1, 1, 0], 2), ([1, 1, 0, 0, 0], 0), ([1, 0, 0, 0, 0], -1)):
        fast, _, _ = adapter.adapt(meta, {}, stream._replace(mask=jnp.array(mask)), None, train=False)
        assert fast.label == label


def test_delays_that_differ():
    memory, (stream, queries) = ON_VECTORS["opn"], draw_vectors()
    with pytest.raises(ValueError, match="from_memory: delay=2 around opn with delay=1"):
        jmeta.from_memory(memory, delay=2)
    meta, _ = memory.init(jax.random.key(1), stream.x)
    late = stream._replace(feedback=jnp.array([-1, -1, 0, 1, 2]))
    with pytest.raises(
        ValueError, match="from_memory: delay=1, but the stream's first label arrives at step 2"
    ):
        predict(jmeta.from_memory(memory), meta, jmeta.Task(late, None), queries)
    loss = lambda s: memory.loss(jmeta.unroll(memory, meta, {}, s).outputs, s)  # noqa: E731
    assert np.isfinite(jax.jit(loss)(stream)) and np.isnan(jax.jit(loss)(late))
    rest = jax.tree.map(lambda leaf: leaf[2:], stream)  # which continues another stream
    assert np.isfinite(jax.jit(loss)(rest))


def test_parts_of_a_stream_that_differ_in_length():
    with pytest.raises(ValueError, match=r"different lengths \(x 5, feedback 4 steps\)"):
        jmeta.unroll(MEMORIES["lstm"], None, {}, jmeta.Stream(jnp.zeros((5, 4)), None, jnp.zeros(4, int)))


def test_what_raises():
    with pytest.raises(ValueError, match="delay=0"):
        jmeta.from_memory(MEMORIES["lstm"], delay=0)
    with pytest.raises(ValueError, match="a stream of 6 steps; expected delay=7"):
        jmeta.from_memory(MEMORIES["lstm"], delay=7).adapt(None, {}, draw_task().support, None, train=False)
