"""Reptile and LEAP: their outer updates against NumPy, minibatches, and moments that run on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from network_in_numpy import NETWORK, draw_task, forward, gradient, loss, move, randomize, scaled

import jmeta
from jmeta.adapters import by_minibatches as page
from jmeta.adapters.leap import leap, leap_gradient
from jmeta.adapters.reptile import reptile, reptile_gradient
from jmeta.inner.minibatches import draw_minibatches
from jmeta.types import Batch

TASK, BATCH, STEPS, RATE = draw_task(), 4, 3, 0.2


def rows_of(key, steps, size=BATCH, task=TASK):
    """The rows that an adapter draws with the key of its `adapt`."""
    return np.asarray(draw_minibatches(jax.random.split(key, 3)[0], task.support.y.size, size, steps))


def add(first, second, factor=1.0):
    return jax.tree.map(lambda a, b: a + factor * b, first, second)


def trained_by_adam(params, rows):
    """Adam without first moment, as the paper writes it."""
    second = jax.tree.map(np.zeros_like, params)
    for step, row in enumerate(rows, 1):
        g = gradient(params, Batch(TASK.support.x[row], TASK.support.y[row]))
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, g)
        params = jax.tree.map(
            lambda w, g, v, step=step: w - RATE * g / (np.sqrt(v / (1 - 0.999**step)) + 1e-8),
            params,
            g,
            second,
        )
    return params


def length_gradient(params, rows):
    """Equation 8 with the stabilizer, the end of the last step on one more minibatch."""
    total, points = jax.tree.map(np.zeros_like, params), []
    for row in rows:
        batch = Batch(TASK.support.x[row], TASK.support.y[row])
        points.append((params, loss(params, batch), gradient(params, batch)))
        params = move(params, scaled(points[-1][2], lambda *_: -RATE))
    for (start, before, g), (end, after, _) in zip(points, points[1:]):
        back = add(start, end, -1.0)
        length = np.sqrt((after - before) ** 2 + sum((leaf**2).sum() for leaf in jax.tree.leaves(back)))
        total = add(total, add(back, g, abs(after - before)), 1 / length)
    return total


@pytest.mark.parametrize("name", ["reptile", "leap"])
def test_an_outer_step(name):
    options = {"inner_lr": RATE, "inner_steps": STEPS, "adapt_batch": BATCH}
    if name == "reptile":
        adapter, task_grad = reptile(NETWORK, jmeta.cross_entropy, **options), reptile_gradient()
    else:
        adapter, task_grad = leap(NETWORK, jmeta.cross_entropy, **options), leap_gradient()
    learner = jmeta.learner(adapter, jmeta.cross_entropy, optax.sgd(0.5), task_grad=task_grad)
    state = jax.jit(learner.init)(jax.random.key(0), TASK.support.x)
    state = state._replace(meta={"params": randomize(state.meta["params"]), "rule": ()})
    params = state.meta["params"]
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)  # of the learner's first task
    rows = rows_of(jax.random.split(key, 4)[1], STEPS + (name == "leap"))
    if name == "reptile":
        expected = add(params, trained_by_adam(params, rows), -1.0)
    else:
        expected = length_gradient(params, rows)
    after, metrics = jax.jit(learner.step)(state, jax.tree.map(lambda leaf: leaf[None], TASK))
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(new, old - 0.5 * g, rtol=1e-9, atol=1e-8),
        after.meta["params"], params, expected,
    )  # fmt: skip
    first = Batch(TASK.support.x[rows[0]], TASK.support.y[rows[0]])
    np.testing.assert_allclose(metrics["support_loss"], [loss(params, first)], rtol=1e-12)


def test_two_minibatches_expose_the_hessian():
    """(start - w_2) / rate = g_1 + g_2 - rate H_2 g_1 on quadratics, exactly."""
    x = jnp.array([[1.0, 0.0], [0.5, 2.0]])
    model = jmeta.from_pair(lambda key, x: jnp.array([0.3, -0.7]), lambda w, x: x @ w)
    half = lambda outputs, batch: ((outputs - batch.y) ** 2).sum() / 2  # noqa: E731
    adapter = page.by_minibatches(model, half, jmeta.sgd(0.1), 2, batch=1)
    support, key = Batch(x, jnp.array([1.0, -1.0])), jax.random.key(4)
    meta, state = adapter.init(key, x)
    fast, _, _ = adapter.adapt(meta, state, support, key, train=True)
    one, two = np.asarray(draw_minibatches(jax.random.split(key, 3)[0], 2, 1, 2))[:, 0]
    w, y = np.array([0.3, -0.7]), np.asarray(support.y)
    g = [x[row] * (x[row] @ w - y[row]) for row in (one, two)]
    np.testing.assert_allclose(
        (w - fast.params) / 0.1, g[0] + g[1] - 0.1 * np.outer(x[two], x[two]) @ g[0], rtol=1e-12
    )


def test_moments_run_on_over_tasks_and_not_through_tests():
    """The second moment and the count of the tasks before, and a first step of the size of the rate."""
    adapter = reptile(
        NETWORK, jmeta.cross_entropy, inner_lr=RATE, inner_steps=2, adapt_batch=4, shared_moments=True
    )
    meta, state = adapter.init(jax.random.key(0), TASK.support.x)
    adapt = jax.jit(functools.partial(adapter.adapt), static_argnames="train")
    once, after, _ = adapt(meta, state, TASK.support, jax.random.key(1), train=True)
    assert [leaf for leaf in jax.tree.leaves(after["carry"]) if leaf.ndim == 0] == [2]
    twice, later, _ = adapt(meta, after, TASK.support, jax.random.key(1), train=True)
    assert [leaf for leaf in jax.tree.leaves(later["carry"]) if leaf.ndim == 0] == [4]
    assert (once.params["head"]["kernel"] != twice.params["head"]["kernel"]).any()
    _, unchanged, _ = adapt(meta, after, TASK.support, jax.random.key(2), train=False)
    jax.tree.map(np.testing.assert_array_equal, unchanged, after)
    # beta1 = 0: the first step is the rate times the sign
    fresh = reptile(NETWORK, jmeta.cross_entropy, inner_lr=RATE, inner_steps=1, adapt_batch=6)
    first, _, _ = fresh.adapt(meta, state["model"], TASK.support, jax.random.key(1), train=True)
    moved = first.params["head"]["bias"] - meta["params"]["head"]["bias"]
    np.testing.assert_allclose(np.abs(moved), RATE, rtol=1e-5)


def test_the_query_is_normalized_by_the_support_set():
    """Under norm="support" a query alone has the outputs that it has among others."""
    adapter = reptile(NETWORK, jmeta.cross_entropy, inner_steps=1, norm="support", test_inner_steps=1)
    meta, state = adapter.init(jax.random.key(0), TASK.support.x)
    fast, _, _ = adapter.adapt(meta, state, TASK.support, jax.random.key(1), train=False)
    both = [
        adapter.predict(meta, fast, state, x, None, train=False)[0] for x in (TASK.query.x, TASK.query.x[:1])
    ]
    np.testing.assert_allclose(both[0][:1], both[1], rtol=1e-10)
    batch, _ = forward(jax.tree.map(np.asarray, fast.params), np.asarray(TASK.query.x))
    assert np.abs(batch - both[0]).max() > 1e-3


@pytest.mark.parametrize(("count", "batch", "steps"), [(5, 2, 7), (4, 6, 3)])
def test_minibatches_use_each_example_once_a_pass(count, batch, steps):
    rows = np.asarray(draw_minibatches(jax.random.key(count), count, batch, steps))
    assert rows.shape == (steps, batch)
    flat = rows.reshape(-1)
    for begin in range(0, flat.size - count + 1, count):
        assert sorted(flat[begin : begin + count]) == list(range(count))
    # padding is never drawn, and changes no draw
    mask = jnp.concatenate([jnp.ones(count), jnp.zeros(3)])
    np.testing.assert_array_equal(
        draw_minibatches(jax.random.key(count), count + 3, batch, steps, mask), rows
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adapt_batch": 0}, "batch=0; expected at least 1"),
        ({"norm": "running"}, "norm='running'; expected 'batch'"),
        ({"inner_optimizer": "lamb"}, "inner_optimizer='lamb'; expected 'adam' or 'sgd'"),
        ({"test_inner_steps": 0}, "test_steps=0; expected at least 1"),
    ],
)
def test_settings_that_mean_nothing(options, words):
    with pytest.raises(ValueError, match=words):
        reptile(NETWORK, jmeta.cross_entropy, **options)
