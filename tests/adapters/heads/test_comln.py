"""The COMLN adapter against an independent integration of its flow in the full space."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.adapters.heads.comln import comln, comln_head
from jmeta.losses import cross_entropy
from jmeta.models.wrap import from_pair
from jmeta.outer.episode import adapt_and_predict
from jmeta.types import Batch, Task

WAY, FEATURES = 3, 6


def tower():
    def init(key, x):
        return 0.7 * jax.random.normal(key, (x.shape[1], FEATURES), x.dtype)

    return from_pair(init, lambda params, x: jnp.tanh(x @ params))


def draw_task(seed=0, support=6, query=5):
    keys = jax.random.split(jax.random.key(seed), 3)
    centers = jax.random.normal(keys[0], (WAY, 4), jnp.float64)
    labels = jnp.arange(support + query, dtype=jnp.int32) % WAY
    x = centers[labels] + 0.3 * jax.random.normal(keys[1], (support + query, 4), jnp.float64)
    return Task(Batch(x[:support], labels[:support]), Batch(x[support:], labels[support:]))


def query_loss(adapter, meta, task, train=True):
    outputs, _, _ = adapt_and_predict(
        adapter, meta, {}, task.support, task.query.x, jax.random.key(1), train=train, mask=task.query.mask
    )
    return cross_entropy(outputs, task.query)


def loss_by_runge_kutta(meta, task, ridge=0.0, smoothing=0.0, steps=400):
    """The same loss with W integrated by 400 classical Runge-Kutta steps in the way x feature space."""
    z, horizon = jnp.tanh(task.support.x @ meta["body"]), jnp.exp(meta["head"]["log_horizon"])
    labels = (1 - smoothing) * jax.nn.one_hot(task.support.y, WAY, dtype=z.dtype) + smoothing / WAY

    def energy(w):
        fit = -(labels * jax.nn.log_softmax(z @ w.T)).sum() / z.shape[0]
        return fit + ridge / 2 * jnp.square(w - meta["head"]["w0"]).sum()

    def velocity(w):
        return -horizon * jax.grad(energy)(w)

    def step(w, _):
        h = 1 / steps
        k1 = velocity(w)
        k2 = velocity(w + h / 2 * k1)
        k3 = velocity(w + h / 2 * k2)
        k4 = velocity(w + h * k3)
        return w + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    w, _ = jax.lax.scan(step, meta["head"]["w0"], None, length=steps)
    return cross_entropy(jnp.tanh(task.query.x @ meta["body"]) @ w.T, task.query)


@pytest.mark.parametrize("method", ["adjoint", "forward"])
def test_meta_gradients_agree_with_brute_force(method):
    settings = {"ridge": 0.1, "label_smoothing": 0.1, "solver": "tsit5"}
    adapter = comln(tower(), WAY, horizon=3.0, method=method, rtol=1e-10, atol=1e-10, **settings)
    task = draw_task()
    meta, _ = adapter.init(jax.random.key(0), task.support.x)
    ours = jax.jit(jax.grad(lambda m: query_loss(adapter, m, task)))(meta)
    brute = jax.jit(jax.grad(lambda m: loss_by_runge_kutta(m, task, ridge=0.1, smoothing=0.1)))(meta)
    chex.assert_trees_all_close(ours, brute, rtol=1e-6, atol=1e-9)
    assert float(jnp.abs(brute["head"]["log_horizon"])) > 1e-4


def test_the_gradient_of_log_horizon_is_the_alignment_of_support_and_query_gradients():
    adapter, task = comln(tower(), WAY, horizon=2.0, rtol=1e-10, atol=1e-10), draw_task(1)
    meta, _ = adapter.init(jax.random.key(0), task.support.x)
    z, zq = (jnp.tanh(batch.x @ meta["body"]) for batch in task)
    fast, _, info = adapter.adapt(meta, {}, task.support._replace(x=z), jax.random.key(0), train=True)
    on_support = jax.grad(lambda w: cross_entropy(z @ w.T, task.support))(fast.fast)
    on_query = jax.grad(lambda w: cross_entropy(zq @ w.T, task.query))(fast.fast)
    slope = jax.jit(jax.grad(lambda m: query_loss(adapter, m, task)))(meta)["head"]["log_horizon"]
    np.testing.assert_allclose(slope, -2.0 * (on_support * on_query).sum(), rtol=1e-6)
    np.testing.assert_allclose(info["horizon"], 2.0, rtol=1e-12)
    assert bool(info["flow_ok"]) and int(info["flow_steps"]) > 0


def test_a_vanishing_horizon_adapts_nothing():
    adapter, task = comln(tower(), WAY, horizon=1e-9), draw_task(2)
    meta, _ = adapter.init(jax.random.key(0), task.support.x)
    z = jnp.tanh(task.support.x @ meta["body"])
    fast, _, _ = adapter.adapt(meta, {}, task.support._replace(x=z), jax.random.key(0), train=True)
    np.testing.assert_allclose(fast.fast, meta["head"]["w0"], atol=1e-8)


def test_label_smoothing_is_for_training_only():
    task = draw_task(3)
    plain, smooth = comln(tower(), WAY), comln(tower(), WAY, label_smoothing=0.2, solver="tsit5")
    meta, _ = plain.init(jax.random.key(0), task.support.x)
    np.testing.assert_array_equal(
        query_loss(plain, meta, task, train=False), query_loss(smooth, meta, task, train=False)
    )
    assert query_loss(plain, meta, task) != query_loss(smooth, meta, task)


def test_padding_and_absent_ways_change_nothing():
    """Two ways and four examples, padded to three ways and six examples, are the smaller episode."""
    small = draw_task(4)
    keep = small.support.y < 2
    small = Task(*(Batch(b.x[b.y < 2], b.y[b.y < 2]) for b in small))
    adapter = comln(tower(), WAY, horizon=2.0, rtol=1e-10, atol=1e-10)
    meta, _ = adapter.init(jax.random.key(0), small.support.x)
    two_ways = comln(tower(), 2, horizon=2.0, rtol=1e-10, atol=1e-10)
    head = meta["head"] | {"w0": meta["head"]["w0"][:2]}
    expected = query_loss(two_ways, meta | {"head": head}, small)

    def pad(batch, size):
        extra = size - batch.y.shape[0]
        x = jnp.concatenate([batch.x, jnp.full((extra, 4), 7.0)])
        return Batch(x, jnp.pad(batch.y, (0, extra)), jnp.arange(size) < batch.y.shape[0])

    padded = Task(pad(small.support, 6), pad(small.query, 5))
    assert int(keep.sum()) < 6
    np.testing.assert_allclose(query_loss(adapter, meta, padded), expected, rtol=1e-8)


def test_a_task_horizon_starts_as_the_shared_one_and_is_learned():
    task = draw_task(5)
    shared = comln(tower(), WAY)
    own = comln(tower(), WAY, task_horizon=True)
    meta, _ = own.init(jax.random.key(0), task.support.x)
    head = {name: meta["head"][name] for name in ("w0", "log_horizon")}
    same = {"body": meta["body"], "head": head}
    np.testing.assert_allclose(query_loss(own, meta, task), query_loss(shared, same, task), rtol=1e-12)
    slope = jax.jit(jax.grad(lambda m: query_loss(own, m, task)))(meta)["head"]["horizon_weights"]
    assert slope.shape == (3,) and bool(jnp.isfinite(slope).all()) and bool((slope != 0).all())


def test_an_infinite_horizon_is_the_limit_of_long_flows():
    task = draw_task(6)
    limit = comln(tower(), WAY, horizon=math.inf, ridge=0.2)
    long = comln(tower(), WAY, horizon=100.0, ridge=0.2, rtol=1e-9, atol=1e-10, solver="tsit5")
    meta, _ = limit.init(jax.random.key(0), task.support.x)
    finite = meta | {"head": meta["head"] | {"log_horizon": jnp.log(100.0)}}
    ours = jax.jit(jax.grad(lambda m: query_loss(limit, m, task)))(meta)
    followed = jax.jit(jax.grad(lambda m: query_loss(long, m, task)))(finite)
    del followed["head"]["log_horizon"]
    chex.assert_trees_all_close(ours, followed, rtol=1e-5, atol=1e-8)


def test_a_fixed_horizon_gets_no_gradient():
    task, adapter = draw_task(7), comln(tower(), WAY, learn_horizon=False)
    meta, _ = adapter.init(jax.random.key(0), task.support.x)
    assert jax.jit(jax.grad(lambda m: query_loss(adapter, m, task)))(meta)["head"]["log_horizon"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "per_step"}, "norm='per_step'"),
        ({"horizon": -1.0}, "horizon=-1.0"),
        ({"initial_scale": "big"}, "initial_scale='big'"),
        ({"task_horizon": True, "learn_horizon": False}, "task_horizon learns T"),
        ({"horizon": math.inf}, "ridge"),
    ],
)
def test_bad_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        comln(tower(), WAY, **settings)


def test_a_backbone_without_feature_vectors_raises():
    images = from_pair(lambda key, x: {}, lambda params, x: x[:, None])
    with pytest.raises(ValueError, match=r"expected features \[example, feature\]"):
        comln(images, WAY).init(jax.random.key(0), jnp.ones((4, 5)))


@pytest.mark.parametrize("scale, deviation", [("way", 5**-0.5), ("feature", 4000**-0.5)])
def test_w0_has_the_deviation_that_is_stated(scale, deviation):
    """After the truncation at two deviations of the normal numbers, and in float32 for narrower features."""
    z = jnp.zeros((5, 4000), jnp.bfloat16)
    meta = comln_head(5, initial_scale=scale, task_horizon=True).init(jax.random.key(0), z)
    assert {leaf.dtype for leaf in jax.tree.leaves(meta)} == {jnp.dtype("float32")}
    w0 = np.asarray(meta["w0"])
    np.testing.assert_allclose(w0.std(), deviation, rtol=0.015)  # 20,000 numbers: 3 errors
    assert abs(w0).max() < 2 * deviation / 0.8796


def test_meta_parameters_have_the_type_of_the_bodys():
    """A body in mixed precision has features in bfloat16; log T and a head's weights are float32."""
    body = from_pair(
        lambda key, x: jnp.ones((x.shape[1], 4), jnp.float32), lambda w, x: (x @ w).astype(jnp.bfloat16)
    )
    last = jmeta.mlp(widths=(), outputs=WAY)
    for adapter in (
        comln(body, WAY, solver="euler", step_size=0.5),
        jmeta.on_features(body, jmeta.r2d2(WAY), WAY),
        jmeta.anil(body, last, cross_entropy, jmeta.sgd(0.1), 1, way=WAY),
    ):
        x, y = jnp.ones((6, 4), jnp.float32), jnp.arange(6) % WAY
        meta, state = adapter.init(jax.random.key(0), x)
        assert {leaf.dtype for leaf in jax.tree.leaves(meta)} == {jnp.dtype("float32")}
        outputs, _, _ = adapt_and_predict(adapter, meta, state, Batch(x, y), x, jax.random.key(0), train=True)
        assert np.isfinite(outputs.astype(jnp.float32)).all()


@pytest.mark.parametrize("name", ["comln", "limit", "protonet", "r2d2"])
def test_a_support_label_out_of_range_leaves_nothing_finite(name):
    head = {
        "comln": comln_head(WAY, solver="euler", step_size=0.5),
        "limit": comln_head(WAY, horizon=math.inf, ridge=0.5),
        "protonet": jmeta.protonet(WAY),
        "r2d2": jmeta.r2d2(WAY),
    }[name]
    z, y = jax.random.normal(jax.random.key(0), (6, 4), jnp.float32), jnp.array([0, 1, 2, 0, 1, 2])
    meta = head.init(jax.random.key(1), z)

    @jax.jit
    def outputs(z, y):
        return head.predict(meta, head.fit(meta, Batch(z, y), None, present=None, train=True)[0], z).sum()

    assert np.isfinite(outputs(z, y))
    for wrong in (WAY, -1):
        value, grads = jax.value_and_grad(outputs)(z, y.at[5].set(wrong))
        assert np.isnan(value) and np.isnan(grads).all()
    with pytest.raises(ValueError, match="labels run from 0 to 3; expected 0..2"):
        head.fit(meta, Batch(z, y.at[5].set(WAY)), None, present=None, train=True)
