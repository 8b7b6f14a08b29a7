"""OML and ANML against loops written out, one example after another, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jmeta
from jmeta.adapters.anml import anml
from jmeta.adapters.oml import oml
from jmeta.models.init import kernel_initializer

SLOTS, RATE = 4, 0.1
KEY = jax.random.key(7)


def draw_task(size=6):
    keys = jax.random.split(jax.random.key(1), 2)
    x = jax.random.normal(keys[0], (2, size, size, 1))
    y = jnp.array([2, 0], jnp.int32)
    stream = jmeta.Stream(x, y, jnp.concatenate([jnp.array([-1], jnp.int32), y[:-1]]))
    query = jmeta.Batch(jax.random.normal(keys[1], (3, size, size, 1)), jnp.array([3, 0, 2], jnp.int32))
    return jmeta.Task(stream, query)


def run_task(adapter, meta, task, train=True):
    z, _ = adapter.encode(meta, STATE, task.support.x, train=train, key=None, mask=None)
    fast, _, info = adapter.adapt(meta, STATE, task.support._replace(x=z), KEY, train=train)
    z, _ = adapter.encode(meta, STATE, task.query.x, train=train, key=None, mask=None)
    outputs, _ = adapter.predict(meta, fast, STATE, z, KEY, train=train, mask=None)
    return jmeta.cross_entropy(outputs, task.query), (outputs, info)


STATE = {}


def parameters(adapter, task):
    meta, _ = jax.jit(adapter.init)(jax.random.key(0), task.support.x)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), meta)


def conv(x, weights, stride=1, padding="VALID"):
    y = lax.conv_general_dilated(
        x, weights["kernel"], (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + weights["bias"][None, None, None]


def dense(x, weights):
    return x @ weights["kernel"] + weights["bias"][None]


def fresh(kernel):
    """What the adapter draws for its output layer: He-normal, of the first half of its key."""
    return kernel_initializer("he_normal")(jax.random.split(KEY)[0], kernel.shape, kernel.dtype)


def nll(logits, y):
    return -jax.nn.log_softmax(logits)[jnp.arange(len(y)), y].mean()


def learned_by_hand(logits_of, fast, task):
    """SGD on one example after another; `logits_of(fast, x, example indices or None)`."""
    for index in range(len(task.support.y)):
        one = slice(index, index + 1)

        def loss(fast, one=one):
            return nll(logits_of(fast, task.support.x[one]), task.support.y[one])

        fast = jax.tree.map(lambda w, g: w - RATE * g, fast, jax.grad(loss)(fast))
    return fast


def oml_by_hand(meta, task):
    body = meta["body"]

    def features(x):
        return jax.nn.relu(conv(x, body["conv_0"], stride=2)).reshape(len(x), -1)

    def logits_of(fast, x):
        return dense(jax.nn.relu(dense(features(x), fast["dense_0"])), fast["head"])

    fast = meta["head"]["params"]
    fast = {**fast, "head": {**fast["head"], "kernel": fresh(fast["head"]["kernel"])}}
    logits = logits_of(learned_by_hand(logits_of, fast, task), task.query.x)
    return nll(logits, task.query.y), logits


@pytest.fixture(scope="module")
def start():
    task = draw_task()
    adapter = oml(SLOTS, jmeta.sgd(RATE), filters=2, strides=(2,), hidden=5)
    return task, parameters(adapter, task)


def test_oml_equals_the_loop_written_out_to_second_order(start):
    task, meta = start
    (_, expected), slopes = jax.jit(jax.value_and_grad(oml_by_hand, has_aux=True))(meta, task)
    for order in ("exact", "mixed"):
        adapter = oml(SLOTS, jmeta.sgd(RATE), filters=2, strides=(2,), hidden=5, order=order)
        value = jax.value_and_grad(lambda meta: run_task(adapter, meta, task), has_aux=True)  # noqa: B023
        (_, (outputs, _)), grads = jax.jit(value)(meta)
        np.testing.assert_allclose(outputs, expected, rtol=1e-9)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), grads, slopes)
    head = grads["head"]["params"]
    assert not np.any(head["head"]["kernel"]) and np.any(head["head"]["bias"])
    assert np.any(head["dense_0"]["kernel"]) and np.any(grads["body"]["conv_0"]["kernel"])


def test_adapting_lowers_the_loss_of_the_whole_stream(start):
    task, meta = start
    adapter = oml(SLOTS, jmeta.sgd(RATE), filters=2, strides=(2,), hidden=5)
    nothing = oml(SLOTS, jmeta.sgd(0.0), filters=2, strides=(2,), hidden=5)
    after, before = (
        jax.jit(lambda a=a: run_task(a, meta, task, train=False)[1][1])()["support_loss_adapted"]
        for a in (adapter, nothing)
    )
    assert after < before


def test_every_task_draws_its_output_layer(start):
    task, meta = start
    adapter = oml(SLOTS, jmeta.sgd(0.0), filters=2, strides=(2,), hidden=400)
    meta = parameters(adapter, task)

    def kernel(key):
        z, _ = adapter.encode(meta, STATE, task.support.x, train=True)
        fast, _, _ = adapter.adapt(meta, STATE, task.support._replace(x=z), key, train=True)
        return fast.fast["head"]["kernel"]

    one, other = jax.jit(jax.vmap(kernel))(jax.random.split(KEY))
    assert (one != other).all()
    assert np.std(one) == pytest.approx((2 / 400) ** 0.5, rel=0.05)


def norm_relu_pool(x, norm):
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    scale, bias = (norm[name][None, None, None] for name in ("scale", "bias"))
    x = jax.nn.relu((x - mean) / jnp.sqrt(variance + 1e-6) * scale + bias)
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def blocks(x, params):
    return norm_relu_pool(conv(x, params["conv_0"]), params["norm_0"]).reshape(len(x), -1)


def anml_by_hand(modulator, prediction, task, *, inner_modulator=None):
    """`inner_modulator` gates the inner loop, `modulator` the queries; both are the same network."""

    def logits_of(modulator):
        def of(fast, x):
            gate = jax.nn.sigmoid(dense(blocks(x, modulator["network"]), modulator["output"]))
            return dense(blocks(x, fast["trunk"]) * gate, fast["head"])

        return of

    fast = {**prediction, "head": {**prediction["head"], "kernel": fresh(prediction["head"]["kernel"])}}
    fast = learned_by_hand(logits_of(modulator if inner_modulator is None else inner_modulator), fast, task)
    return nll(logits_of(modulator)(fast, task.query.x), task.query.y)


def test_anml_equals_the_loop_written_out_and_its_gates_learn_from_queries_alone():
    task = draw_task()
    settings = {"filters": 3, "modulator_filters": 2, "pooled": (True,), "modulator_pooled": (True,)}
    adapters = {order: anml(SLOTS, jmeta.sgd(RATE), order=order, **settings) for order in ("exact", "first")}
    meta = parameters(adapters["first"], task)
    modulator, prediction = meta["body"], meta["head"]["params"]

    def gradients(adapter):
        value = jax.value_and_grad(lambda meta: run_task(adapter, meta, task)[0])
        loss, grads = jax.jit(value)(meta)
        return loss, (grads["body"], grads["head"]["params"])

    def close(a, b):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-11), a, b)

    by_hand = jax.value_and_grad(lambda m, p: anml_by_hand(m, p, task), argnums=(0, 1))
    close(gradients(adapters["exact"]), jax.jit(by_hand)(modulator, prediction))

    loss, (of_gates, _) = gradients(adapters["first"])
    through_queries = jax.grad(lambda m: anml_by_hand(m, prediction, task, inner_modulator=modulator))
    close(of_gates, jax.jit(through_queries)(modulator))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of_gates["output"]))


def count(adapter, image):
    example = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    meta, _ = jax.eval_shape(adapter.init, jax.random.key(0), example)
    return sum(leaf.size for leaf in jax.tree.leaves(meta))


def test_sizes_are_the_papers():
    adapter = anml(1000, jmeta.sgd(0.1))
    meta, _ = jax.eval_shape(
        adapter.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 3), jnp.float32)
    )
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(meta[name])) for name in ("body", "head")]
    assert sizes == [2_554_560, 3_493_864]  # 6.05 million
    convolutions = 9 * 256 + 3 * 9 * 256**2 + 4 * 256
    dense_layers = 10 * 10 * 256 * 1024 + 1024 + 1024 * 20 + 20
    assert count(oml(20, jmeta.sgd(0.03)), (28, 28, 1)) == convolutions + dense_layers


def test_images_too_small_for_the_networks():
    with pytest.raises(ValueError, match="14x14 leave no feature"):
        count(anml(5, jmeta.sgd(0.1)), (14, 14, 1))


def test_a_step_for_each_example_has_no_other_number_of_steps():
    with pytest.raises(ValueError, match="test_steps=3"):
        jmeta.gradient_adapter(jmeta.mlp(outputs=2), jmeta.cross_entropy, jmeta.sgd(0.1), None, test_steps=3)
