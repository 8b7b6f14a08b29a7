"""The methods that OSAKA compares, built by name, on a small network in place of conv4."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta.online import osaka_methods
from jmeta.online.c_maml import c_maml
from jmeta.online.osaka_methods import FINETUNING_RATE
from jmeta.registry import OSAKA, build
from jmeta.rules.masked_sgd import rectified_sgd
from jmeta.types import Batch

SETTINGS = {"learning_rate": 0.01, "mask_learning_rate": 0.02, "inner_lr": 0.1, "inner_steps": 1,
            "order": "first"}  # fmt: skip
PRETRAINED = {"finetuning", "maml", "anil", "c_maml", "sparse_c_maml", "sparse_relu_c_maml"}


def small_network(way, filters):
    """A network with the parts of conv4 that methods select by name."""

    def init(key, x):
        keys = jax.random.split(key)
        params = {
            "conv_0": {"kernel": jax.random.normal(keys[0], (x.shape[1], filters), x.dtype)},
            "norm_0": {"scale": jnp.ones(filters, x.dtype)},
        }
        head = {"head": {"kernel": jax.random.normal(keys[1], (filters, way or 1), x.dtype)}}
        return params | (head if way else {})

    def apply(params, x):
        features = jax.nn.tanh(x @ params["conv_0"]["kernel"]) * params["norm_0"]["scale"][None]
        return features @ params["head"]["kernel"] if way else features

    return jmeta.from_pair(init, apply)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(osaka_methods, "_network", small_network)


def method_of(name, **settings):
    own = {key: value for key, value in SETTINGS.items() if key in OSAKA[name].settings}
    return build({"name": name, "way": 2, "filters": 3, **own, **settings}, "osaka")


def batch_of(seed):
    x = jax.random.normal(jax.random.key(seed), (4, 5), jnp.float64)
    return Batch(x, jnp.array([0, 1, 0, 1], jnp.int32))


@pytest.mark.parametrize("name", OSAKA)
def test_every_method_observes_a_stream_from_its_pretraining_on(name, small):
    method = method_of(name)
    first, second = batch_of(1), batch_of(2)
    state = jax.jit(method.online.init)(jax.random.key(0), first.x)
    assert (method.pretraining is None) == (method.tx is None) == (name not in PRETRAINED)
    if method.pretraining is not None:
        outer = jmeta.learner(method.pretraining, jmeta.cross_entropy, method.tx)
        start = jax.jit(outer.init)(jax.random.key(3), first.x)
        assert jax.tree.structure(state.slow.meta) == jax.tree.structure(start.meta)
        state = state._replace(slow=start)
    observe = jax.jit(method.online.observe)
    for step, batch in enumerate((first, second)):
        state, info = observe(state, batch, jax.random.key(step))
        assert np.isfinite(info["loss"]) and info["accuracy"] in (0, 0.25, 0.5, 0.75, 1)
    assert np.isfinite(jax.jit(method.online.predict)(state, second.x)).all()


@pytest.mark.parametrize("name", ["online_adam", "anil", "metacog"])
def test_methods_have_a_conv4(name):
    method, x = method_of(name), jax.ShapeDtypeStruct((4, 16, 16, 1), jnp.float32)
    state = jax.eval_shape(method.online.init, jax.random.key(0), x)
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    assert [shape for path, shape in shapes.items() if path.endswith("conv_3/kernel")][0] == (3, 3, 3, 3)
    batch = Batch(x, jax.ShapeDtypeStruct((4,), jnp.int32))
    after, _ = jax.eval_shape(method.online.observe, state, batch, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)


def test_rates_and_thresholds_may_be_traced(small):
    names = ("learning_rate", "mask_learning_rate", "inner_lr", "threshold", "modulation")

    def loss(values):
        online = method_of("sparse_c_maml", **dict(zip(names, values))).online
        state = online.init(jax.random.key(0), batch_of(0).x)
        for step in range(2):
            state, info = online.observe(state, batch_of(step), jax.random.key(step))
        return info["loss"]

    points = jnp.array([[0.01, 0.02, 0.1, 0.5, 2.0], [0.01, 0.02, 0.2, 0.5, 2.0]])
    losses = jax.jit(lambda points: jax.lax.map(loss, points))(points)
    assert losses[0] != losses[1]


def test_sparse_relu_c_maml_is_c_maml_with_rectified_rates(small):
    """Infinite thresholds are none, and normalization does not adapt."""
    tx = optax.partition(
        {"params": optax.adam(0.01), "rule": optax.adam(0.02)}, {"params": "params", "rule": "rule"}
    )
    adapter = jmeta.gradient_adapter(
        small_network(2, 3), jmeta.cross_entropy, rectified_sgd(0.1), 1, adapted=["conv_0", "head"],
        order="first",
    )  # fmt: skip
    expected = c_maml(adapter, jmeta.cross_entropy, tx=tx, prolonged=False)
    ours = method_of("sparse_relu_c_maml", threshold=float("inf"), modulation=float("inf"), prolonged=False)
    states = []
    for online in (ours.online, expected):
        state = jax.jit(online.init)(jax.random.key(0), batch_of(0).x)
        observe = jax.jit(online.observe)
        for step in range(3):
            state, info = observe(state, batch_of(step), jax.random.key(step))
        assert info["detected"] == 0 and info["updated"] == 1
        states.append(state)
    jax.tree.map(np.testing.assert_array_equal, states[0].slow.meta, states[1].slow.meta)


def test_finetuning_pretrains_with_one_inner_step(small):
    method, batch = method_of("finetuning"), batch_of(1)
    meta, state = method.pretraining.init(jax.random.key(0), batch.x)
    fast = method.pretraining.adapt(meta, state, batch, None, train=True)[0].params
    network = small_network(2, 3)
    loss = jax.jit(
        jax.grad(lambda p: jmeta.cross_entropy(network.apply(p, {}, batch.x, train=True)[0], batch))
    )
    step = jax.tree.map(lambda p, g: p - FINETUNING_RATE * g, meta["params"], loss(meta["params"]))
    np.testing.assert_allclose(fast["head"]["kernel"], step["head"]["kernel"], rtol=1e-10)
    assert fast["norm_0"]["scale"] is None
