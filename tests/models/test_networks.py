"""Conv-4, ResNet-12, MLP: shapes, parameter counts by hand, masks, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jmeta.models.conv4 import conv4
from jmeta.models.identity import identity
from jmeta.models.mlp import mlp
from jmeta.models.resnet12 import drop_block, resnet12
from jmeta.registry import build


def _shapes(model, *shape):
    """Parameter count and output shape of a model for inputs of a shape, without computing."""

    def run(x):
        params, state = model.init(jax.random.key(0), x)
        return params, model.apply(params, state, x, train=True)[0]

    params, outputs = jax.eval_shape(run, jax.ShapeDtypeStruct(shape, jnp.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(params)), outputs.shape


def test_conv4_features_and_parameters():
    convolutions = 9 * 3 * 64 + 64 + 3 * (9 * 64 * 64 + 64)
    norms = 4 * 2 * 64
    assert _shapes(conv4(), 2, 84, 84, 3) == (convolutions + norms, (2, 1600))
    assert _shapes(conv4(filters=32, head=5), 2, 28, 28, 1)[1] == (2, 5)
    assert _shapes(conv4(), 2, 28, 28, 1)[1] == (2, 64)
    assert _shapes(conv4(pool=False, head=5), 2, 28, 28, 1) == (
        9 * 64 + 64 + 3 * (9 * 64 * 64 + 64) + norms + 64 * 5 + 5, (2, 5)
    )  # fmt: skip


@pytest.mark.parametrize(("global_pool", "features"), [(False, 16000), (True, 640)])
def test_resnet12_features_and_parameters(global_pool, features):
    widths, count = (3, 64, 160, 320, 640), 0
    for inputs, width in zip(widths, widths[1:]):
        count += 9 * inputs * width + 2 * 9 * width * width + inputs * width + 4 * 2 * width
    assert count == 12_424_320
    assert _shapes(resnet12(global_pool=global_pool), 2, 84, 84, 3) == (count, (2, features))


class PlainConv4(nn.Module):
    """Conv-4 of flax's own layers, under the same parameter names."""

    pool: bool = True

    @nn.compact
    def __call__(self, x, *, train):
        for layer in range(4):
            stride = 1 if self.pool else 2
            x = nn.Conv(4, (3, 3), strides=stride, padding=1, name=f"conv_{layer}")(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm_{layer}")(x)
            x = nn.max_pool(nn.relu(x), (2, 2), (2, 2)) if self.pool else nn.relu(x)
        x = x.reshape(x.shape[0], -1) if self.pool else x.mean((1, 2))
        return nn.Dense(3, name="head")(x)


@pytest.mark.parametrize(
    ("size", "channels", "pool"), [(28, 1, True), (20, 3, True), (37, 12, True), (28, 1, False)]
)
def test_conv4_is_the_plain_network(size, channels, pool):
    """Value, running averages, gradient and the gradient of a meta-step, in float64."""
    x = jax.random.normal(jax.random.key(1), (3, size, size, channels), jnp.float64)
    model, plain = conv4(filters=4, head=3, pool=pool), PlainConv4(pool)
    params, state = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0), x))
    # Scales of both signs, since the order of scaling and pooling must not matter.
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    params = structure.unflatten(
        p + 0.7 * jax.random.normal(k, p.shape, p.dtype) for p, k in zip(leaves, keys)
    )

    def of_plain(params, x, train):
        variables = {"params": params, **state}
        return plain.apply(variables, x, train=train, mutable=["batch_stats"])

    def of_ours(params, x, train):
        return model.apply(params, state, x, train=train)

    def everything(network):
        def loss(params):
            return jax.nn.logsumexp(network(params, x, True)[0]).sum()

        def meta_loss(params):
            return loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)))

        outputs, updated = network(params, x, True)
        return outputs, dict(updated), network(params, x, False)[0], jax.grad(meta_loss)(params)

    ours, expected = (
        jax.jit(everything, static_argnums=0)(of_ours),
        jax.jit(everything, static_argnums=0)(of_plain),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), ours, expected)


@pytest.mark.parametrize("model", [conv4(filters=4), resnet12(widths=(4, 6))], ids=["conv4", "resnet12"])
def test_padding_does_not_reach_the_real_examples(model):
    x = jax.random.normal(jax.random.key(1), (5, 16, 16, 2), jnp.float32)
    params, state = model.init(jax.random.key(0), x)
    mask = jnp.array([1, 1, 1, 0, 0])
    outputs, updated = model.apply(params, state, x.at[3:].set(1e3), train=True, mask=mask)
    expected, averages = model.apply(params, state, x[:3], train=True)
    np.testing.assert_allclose(outputs[:3], expected, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), updated, averages)
    assert outputs.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((params, updated))} == {jnp.dtype(jnp.float32)}


def test_normalized_features_are_divided_by_the_root_of_their_number():
    x = jax.random.normal(jax.random.key(1), (3, 16, 16, 1), jnp.float32)
    plain, scaled = conv4(filters=4), conv4(filters=4, normalize_features=True)
    params, state = plain.init(jax.random.key(0), x)
    expected = plain.apply(params, state, x, train=True)[0] / 2
    np.testing.assert_allclose(scaled.apply(params, state, x, train=True)[0], expected, rtol=1e-6)


def test_drop_block_drops_the_share_in_squares():
    keep = drop_block(jnp.ones((64, 20, 20, 4)), 0.1, jax.random.key(0)) > 0
    assert 0.07 < 1 - keep.mean() < 0.13
    np.testing.assert_allclose(drop_block(jnp.ones((8, 20, 20, 4)), 0.1, jax.random.key(1)).mean(), 1.0)
    dropped = ~keep
    squares = jax.lax.reduce_window(
        dropped, True, jax.lax.bitwise_and, (1, 5, 5, 1), (1, 1, 1, 1), "VALID"
    )  # the corners of whole squares: every dropped value lies in one
    padded = jnp.pad(squares, ((0, 0), (4, 4), (4, 4), (0, 0)))
    covered = jax.lax.reduce_window(padded, False, jax.lax.bitwise_or, (1, 5, 5, 1), (1, 1, 1, 1), "VALID")
    np.testing.assert_array_equal(dropped, covered)


def test_drop_block_acts_with_a_key_only():
    model = resnet12(widths=(4, 4), drop_block=0.3)
    x = jax.random.normal(jax.random.key(1), (2, 12, 12, 1), jnp.float32)
    params, state = model.init(jax.random.key(0), x)
    quiet = model.apply(params, state, x, train=True)[0]
    noisy = model.apply(params, state, x, train=True, key=jax.random.key(2))[0]
    assert (noisy == 0).sum() > (quiet == 0).sum()
    with pytest.raises(ValueError, match=r"drop_block is 1\.5"):
        resnet12(drop_block=1.5)


def test_mlp_and_identity():
    x = jnp.ones((3, 2, 5), jnp.float32)
    assert _shapes(mlp(widths=(7,), outputs=2), 3, 2, 5) == (10 * 7 + 7 + 7 * 2 + 2, (3, 2))
    x = x[:, 0]
    params, state = identity().init(jax.random.key(0), x)
    assert identity().apply(params, state, x, train=True)[0] is x


def test_networks_by_name():
    assert _shapes(build({"name": "conv4", "filters": 8}, "model"), 1, 16, 16, 1)[1] == (1, 8)
    assert _shapes(build({"name": "mlp", "widths": (4,)}, "model"), 1, 3)[1] == (1, 4)
    with pytest.raises(ValueError, match="'vgg'.*vgg11"):
        build({"name": "vgg"}, "model")
