"""The gradient adapter: MAML, FOMAML, ANIL and BOIL, normalization policies, masks and noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jmeta
from jmeta.models.conv import Conv, max_pool
from jmeta.models.norm import BatchNorm
from jmeta.types import Batch, Model, Task

WAY = 3
KEY = jax.random.key(5)


class Body(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, mask=None):
        x = nn.Dense(6, dtype=x.dtype, param_dtype=x.dtype, name="dense")(x)
        mask = None if mask is None else mask.astype(bool)[:, None]
        norm = nn.BatchNorm(use_running_average=not train, dtype=x.dtype, param_dtype=x.dtype, name="norm")
        return nn.tanh(norm(x, mask=mask))


class Head(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(WAY, dtype=x.dtype, param_dtype=x.dtype, name="out")(x)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, mask=None):
        return Head(name="head")(Body(name="body")(x, train=train, mask=mask))


NET, PAIR = jmeta.from_linen(Net()), (jmeta.from_linen(Body()), jmeta.from_linen(Head()))


def draw_task(key=KEY, shot=2, query=3):
    keys = jax.random.split(key, 3)
    centers = 2 * jax.random.normal(keys[0], (WAY, 4))

    def batch(key, count):
        y = jnp.arange(WAY * count, dtype=jnp.int32) % WAY
        return Batch(centers[y] + jax.random.normal(key, (y.size, 4)), y)

    return Task(batch(keys[1], shot), batch(keys[2], query))


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def play(adapter, meta, state, task, *, key=KEY, train=True):
    z, state = adapter.encode(meta, state, task.support.x, train=train, key=key, mask=task.support.mask)
    fast, state, info = adapter.adapt(meta, state, task.support._replace(x=z), key, train=train)
    z, state = adapter.encode(meta, state, task.query.x, train=train, key=key, mask=task.query.mask)
    outputs, state = adapter.predict(meta, fast, state, z, key, train=train, mask=task.query.mask)
    return outputs, state, info


def build(model=NET, steps=2, rule=None, **options):
    rule = jmeta.sgd(0.1) if rule is None else rule
    return jmeta.gradient_adapter(model, jmeta.cross_entropy, rule, steps, **options)


def outer_gradient(adapter, meta, state, task, train=True):
    def value(meta):
        outputs, _, _ = play(adapter, meta, state, task, train=train)
        return jmeta.cross_entropy(outputs, task.query), outputs

    (_, outputs), grads = jax.jit(jax.value_and_grad(value, has_aux=True))(meta)
    return outputs, grads


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, expected)


@pytest.fixture(scope="module")
def start():
    """A task, and the network's parameters and state some way off from their initial values."""
    task = draw_task()
    params, state = NET.init(jax.random.key(1), task.support.x)
    _, state = NET.apply(params, state, 3 + 2 * task.query.x, train=True)
    return task, params, state


def test_maml_matches_a_loop_written_out(start):
    task, params, state = start

    def value(params):
        def loss(params, batch):
            return jmeta.cross_entropy(NET.apply(params, state, batch.x, train=True)[0], batch)

        losses = []
        for _ in range(2):
            measured, grads = jax.value_and_grad(loss)(params, task.support)
            losses.append(measured)
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return loss(params, task.query), losses[0]

    (_, before), expected = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    adapter = build()
    _, grads = outer_gradient(adapter, {"params": params, "rule": ()}, state, task)
    assert_close(grads["params"], expected)
    _, unchanged, info = play(adapter, {"params": params, "rule": ()}, state, task)
    np.testing.assert_allclose(info["support_loss"], before, rtol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, unchanged, state)


@pytest.mark.parametrize("norm, train", [("batch", True), ("support", True), ("running", False)])
def test_anil_is_maml_restricted_to_the_head(start, norm, train):
    task, params, state = start
    whole = build(adapted=["head"], norm=norm, order="exact")
    anil = jmeta.anil(*PAIR, jmeta.cross_entropy, jmeta.sgd(0.1), 2, norm=norm, order="mixed")
    meta = {"body": params["body"], "head": {"params": params["head"], "rule": ()}}
    body_state = {"batch_stats": state["batch_stats"]["body"]}
    initial = jax.eval_shape(anil.init, KEY, task.support.x)
    assert jax.tree.map(jnp.shape, (meta, body_state)) == jax.tree.map(jnp.shape, initial)
    outputs, grads = outer_gradient(whole, {"params": params, "rule": ()}, state, task, train)
    got, head_grads = outer_gradient(anil, meta, body_state, task, train)
    assert_close(got, outputs)
    assert_close(head_grads["body"], grads["params"]["body"])
    assert_close(head_grads["head"]["params"], grads["params"]["head"])


def test_boil_leaves_the_head_alone_and_fomaml_is_the_gradient_at_the_end(start):
    task, params, state = start
    adapter = build(adapted=lambda path: not path.startswith("head/"), order="first")
    meta = {"params": params, "rule": ()}
    fast, _, _ = adapter.adapt(meta, state, task.support, KEY, train=True)
    assert jax.tree.leaves(fast.params["head"]) == []
    assert all(
        (a != b).any()
        for a, b in zip(*map(jax.tree.leaves, (fast.params["body"]["dense"], params["body"]["dense"])))
        if a.ndim > 1
    )
    _, grads = outer_gradient(adapter, meta, state, task)

    def query_loss(params):
        return jmeta.cross_entropy(NET.apply(params, state, task.query.x, train=True)[0], task.query)

    at_end = {"body": fast.params["body"], "head": params["head"]}
    assert_close(grads["params"], jax.grad(query_loss)(at_end))


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, mask=None):
        x = BatchNorm(name="norm")(Conv(2, weights="per_task", name="conv")(x), train=train, mask=mask)
        return nn.Dense(2, dtype=x.dtype, name="head")(max_pool(nn.relu(x)).reshape(x.shape[0], -1))


def test_orders_and_remat_agree_on_a_convolutional_network():
    keys = jax.random.split(KEY, 2)
    y = jnp.arange(4, dtype=jnp.int32) % 2
    task = Task(*(Batch(jax.random.normal(key, (4, 4, 4, 1)), y) for key in keys))
    net, rule, found = jmeta.from_linen(Convolutional()), jmeta.sgd(0.3, learn="leaf"), {}
    meta, state = build(net, rule=rule).init(jax.random.key(2), task.support.x)
    meta = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), meta)
    for order, remat in (("exact", "none"), ("exact", "step"), ("mixed", "none")):
        adapter = build(net, rule=rule, order=order, remat=remat)
        found[order, remat] = outer_gradient(adapter, meta, state, task)[1]
    expected = found.pop(("exact", "none"))
    assert optax.tree.norm(expected["rule"]) > 1e-3
    for got in found.values():
        assert_close(got, expected)


def test_policies_at_evaluation_see_what_they_say(start):
    task, params, state = start
    meta, size = {"params": params, "rule": ()}, task.support.y.size
    query = Batch(task.query.x[:size], task.query.y[:size])
    company = query._replace(x=query.x.at[1:].multiply(3))
    same = {}
    for norm, transductive in (("batch", True), ("support", False), ("running", False)):
        adapter = build(norm=norm)
        plain, _, info = play(adapter, meta, state, Task(task.support, query), train=False)
        other, _, _ = play(adapter, meta, state, Task(task.support, company), train=False)
        assert transductive != np.allclose(plain[0], other[0], atol=1e-9)
        assert info["support_loss_adapted"] < info["support_loss"]
        same[norm], _, _ = play(adapter, meta, state, Task(task.support, task.support), train=False)
    # With the support set for a query, support statistics are batch statistics.
    assert_close(same["support"], same["batch"])
    assert not np.allclose(same["running"], same["batch"])


def test_running_averages_move_in_training_only(start):
    task, params, state = start
    adapter = build(norm="running")
    meta = {"params": params, "rule": ()}
    _, trained, _ = play(adapter, meta, state, task, train=True)
    _, evaluated, _ = play(adapter, meta, state, task, train=False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, state)
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(state)))


def test_each_step_keeps_statistics_of_its_own(start):
    task, params, state = start
    adapter = build(norm="per_step", steps=2, test_steps=3)
    meta, stacked = adapter.init(KEY, task.support.x)
    meta["params"] = params
    _, trained, _ = play(adapter, meta, stacked, task)
    # By hand: the support pass of step k updates entry k, then the query pass the last one.
    walked, entries = params, []
    initial = jax.tree.map(lambda leaf: leaf[0], stacked)

    @jax.jit
    def loss(params):
        outputs, entry = NET.apply(params, initial, task.support.x, train=True)
        return jmeta.cross_entropy(outputs, task.support), entry

    for _ in range(2):
        grads, entry = jax.grad(loss, has_aux=True)(walked)
        entries.append(entry)
        walked = jax.tree.map(lambda p, g: p - 0.1 * g, walked, grads)
    _, entries[1] = NET.apply(walked, entries[1], task.query.x, train=True)
    assert_close(trained, jax.tree.map(lambda *leaves: jnp.stack(leaves), *entries))
    outputs, unchanged, _ = play(adapter, meta, trained, task, train=False)
    jax.tree.map(np.testing.assert_array_equal, unchanged, trained)
    # At evaluation the entries are used: one foreign entry changes the outcome, whichever it is.
    for entry in range(2):
        foreign = jax.tree.map(lambda leaf: leaf.at[entry].add(1.0), trained)  # noqa: B023
        assert not np.allclose(play(adapter, meta, foreign, task, train=False)[0], outputs)


@pytest.mark.parametrize("kind", ["whole", "head"])
def test_padding_changes_nothing_and_absent_ways_are_masked(kind):
    task = draw_task()
    present = Task(*(Batch(b.x[b.y < 2], b.y[b.y < 2], jnp.ones(sum(b.y < 2))) for b in task))

    def padded(batch):
        rows = Batch(jnp.full((2, 4), 50.0), jnp.full(2, 2, jnp.int32), jnp.zeros(2))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch, rows)

    anil = jmeta.anil(*PAIR, jmeta.cross_entropy, jmeta.sgd(0.1), 2, norm="support")
    adapter = build() if kind == "whole" else anil
    meta, state = adapter.init(KEY, task.support.x)
    expected, _, info = play(adapter, meta, state, present, train=False)
    got, _, padded_info = play(adapter, meta, state, Task(*map(padded, present)), train=False)
    assert_close(got[: expected.shape[0]], expected)
    assert_close(padded_info, info)
    assert (got.argmax(-1) != 2).all() and (got[:, 2] < -1e8).all()
    dense, _, _ = jax.eval_shape(lambda: adapter.adapt(meta, state, task.support, KEY, train=False))
    assert dense.present is None


def test_noise_is_drawn_in_training_only_and_anew_at_each_step():
    def apply(params, state, x, *, train, key=None, mask=None):
        noise = 0.0 if key is None else jax.random.normal(key)
        return x * params["w"] + noise, state

    def loss(outputs, batch):
        return outputs.mean()

    model = Model(lambda key, x: ({"w": jnp.ones(())}, {}), apply)
    adapter = jmeta.gradient_adapter(model, loss, jmeta.sgd(0.0), 2, test_steps=3)
    batch = Batch(jnp.ones(1), jnp.ones(1))
    meta, state = adapter.init(KEY, batch.x)
    noisy, _, info = play(adapter, meta, state, Task(batch, batch), train=True)
    other, _, _ = play(adapter, meta, state, Task(batch, batch), train=True, key=jax.random.key(6))
    assert noisy != other and noisy != 1.0 and info["support_loss"] != noisy[0]
    quiet, _, info = play(adapter, meta, state, Task(batch, batch), train=False)
    assert quiet == 1.0 and info["support_loss"] == 1.0
    keyless, _, _ = play(adapter, meta, state, Task(batch, batch), train=True, key=None)
    assert keyless == 1.0


def test_test_steps_count_at_evaluation():
    model = jmeta.from_pair(lambda key, x: jnp.zeros(()), lambda w, x: w + 0 * x)
    adapter = jmeta.gradient_adapter(model, jmeta.mean_squared_error, jmeta.sgd(0.25), 1, test_steps=3)
    batch = Batch(jnp.ones(1), jnp.ones(1))
    meta, state = adapter.init(KEY, batch.x)
    # Each step halves the error of 1.
    for train, expected in ((True, 0.5), (False, 0.875)):
        outputs, _, _ = play(adapter, meta, state, Task(batch, batch), train=train)
        np.testing.assert_allclose(outputs, expected)


def test_what_cannot_work_says_so():
    x = draw_task().support.x
    for options, words in (
        ({"norm": "layer"}, "norm is 'layer'"),
        ({"order": "second"}, "order='second'"),
        ({"test_steps": -1}, "steps=-1"),
        ({"steps": 0, "norm": "per_step"}, "steps=0"),
    ):
        with pytest.raises(ValueError, match=words):
            build(**options)
    with pytest.raises(ValueError, match="norm='per_step'"):
        jmeta.anil(*PAIR, jmeta.cross_entropy, jmeta.sgd(0.1), 2, norm="per_step")
    with pytest.raises(TypeError, match="adapted"):
        jmeta.anil(*PAIR, jmeta.cross_entropy, jmeta.sgd(0.1), 2, adapted=["out"])
    with pytest.raises(ValueError, match="running statistics"):
        jmeta.anil(*PAIR[::-1], jmeta.cross_entropy, jmeta.sgd(0.1), 2).init(KEY, x)
    with pytest.raises(ValueError, match=r"\['hea'\] names no parameter of body/dense/bias"):
        build(adapted=["head", "hea"]).init(KEY, x)
    with pytest.raises(ValueError, match="selects no parameter"):
        build(adapted=lambda path: False).init(KEY, x)
    trap = jmeta.from_optax(optax.adam(0.1))
    with pytest.raises(ValueError, match="eps_root"):
        build(rule=trap).init(KEY, x)
    with pytest.raises(ValueError, match="eps_root"):
        jax.eval_shape(build(rule=trap, order="mixed").init, KEY, x)
    build(rule=trap, order="first").init(KEY, x)


@pytest.mark.parametrize("order", ["exact", "mixed", "first"])
def test_an_inner_loss_may_hold_the_weights_near_their_start(order):
    """iMAML's regularizer |w - w0|^2 / 2, against descent by hand, and its derivative in the start."""
    network = jmeta.from_pair(lambda key, x: {"w": jnp.ones(x.shape[1]), "still": jnp.ones(())},
                              lambda params, x: x @ params["w"])  # fmt: skip

    def proximal(outputs, batch, *, params, start, meta, step):
        assert set(meta) == {"params", "rule"} and step.dtype == jnp.int32
        distance = sum(jnp.square(a - b).sum() for a, b in zip(*map(jax.tree.leaves, (params, start))))
        return jmeta.mean_squared_error(outputs, batch) + 0.8 * distance / 2

    adapter = jmeta.gradient_adapter(network, proximal, jmeta.sgd(0.1), 3, adapted=["w"], order=order)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))
    support = jmeta.Batch(x, x @ jnp.array([2.0, -1.0]))
    meta, state = adapter.init(jax.random.key(0), x)

    def adapted(start):
        after = {"params": meta["params"] | {"w": start}, "rule": meta["rule"]}
        return adapter.adapt(after, state, support, None, train=True)[0].params["w"]

    start = jnp.array([0.5, 0.25])
    hessian = 2 * x.T @ x / 4
    w, slope = start, jnp.eye(2)
    for _ in range(3):
        w = w - 0.1 * (hessian @ (w - jnp.array([2.0, -1.0])) + 0.8 * (w - start))
        slope = slope - 0.1 * ((hessian + 0.8 * jnp.eye(2)) @ slope - 0.8 * jnp.eye(2))
    np.testing.assert_allclose(adapted(start), w, rtol=1e-12)
    expected = jnp.eye(2) if order == "first" else slope
    np.testing.assert_allclose(jax.jacrev(adapted)(start), expected, rtol=1e-10)


def test_targets_may_be_any_pytree_with_a_mask():
    network = jmeta.from_pair(lambda key, x: jnp.ones(x.shape[1]), lambda params, x: x @ params)
    for y in (None, {"low": jnp.zeros(4), "high": jnp.ones(4)}):
        loss = lambda outputs, batch: jnp.square(outputs).mean()  # noqa: E731
        adapter = jmeta.gradient_adapter(network, loss, jmeta.sgd(0.1), 2)
        batch = jmeta.Batch(jnp.ones((4, 3)), y, jnp.ones(4))
        task = jmeta.Task(batch, batch)
        learner = jmeta.learner(adapter, loss, optax.sgd(0.1))
        state = learner.init(jax.random.key(0), task)
        _, metrics = learner.step(state, jax.tree.map(lambda leaf: leaf[None], task))
        assert np.isfinite(metrics["loss"]).all()
        assert jmeta.predict(adapter, state, batch, batch.x).shape == (4,)
