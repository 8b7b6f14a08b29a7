"""APL: what it writes, what it looks at, and where its gradient comes from."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.memory.apl import apl
from jmeta.models.residual_encoder import residual_encoder
from jmeta.types import Stream

WAY, SIZE = 5, 3


def run(labels, features=None, bias=None, **options):
    """On the features themselves, with a classifier that says `bias` whatever it sees."""
    time = len(labels)
    x = jax.random.normal(jax.random.key(0), (time, SIZE), jnp.float64) if features is None else features
    y = jnp.asarray(labels)
    stream = Stream(x, y, jnp.concatenate([jnp.full(1, -1), y[:-1]]))
    memory = apl(WAY, jmeta.mlp(widths=()), **options)
    params, state = memory.init(jax.random.key(1), x)
    if bias is not None:
        params = params._replace(head=0 * params.head, bias=jnp.asarray(bias, jnp.float64))
    outputs, carry, _ = jax.jit(lambda p: jmeta.unroll(memory, p, state, stream))(params)
    return memory, params, stream, outputs, carry


@pytest.mark.parametrize(("probability", "written"), [(0.9, 0), (0.3, 0), (0.298, 3), (0.25, 3)])
def test_only_surprises_are_written(probability, written):
    rest = (1 - probability) / (WAY - 1)
    bias = np.log([rest, rest, probability, rest, rest])
    *_, stream, _, carry = run([2, 2, 2, 2], bias=bias)
    assert carry.written == written  # the last label has not arrived
    np.testing.assert_array_equal(carry.features[:written], stream.x[:written])
    np.testing.assert_array_equal(carry.labels, [2] * written + [WAY] * (64 - written))


def test_the_oldest_makes_room():
    *_, stream, _, carry = run([0, 1, 2, 3, 4], bias=np.zeros(WAY), slots=3, neighbors=2)
    np.testing.assert_array_equal(carry.labels, [3, 1, 2])
    np.testing.assert_array_equal(carry.features, stream.x[jnp.array([3, 1, 2])])


def test_the_decoder_written_out():
    """The last step, from the memory before it: two neighbors and an empty slot."""
    memory, params, stream, outputs, _ = run([0, 1, 2], slots=8, neighbors=3)
    query, rest = np.asarray(stream.x[2]), np.zeros(SIZE)
    stored = [(np.asarray(stream.x[i]), i) for i in range(2)]
    p = [jax.nn.log_softmax(outputs[i])[i] for i in range(2)]
    examples = [entry for entry, chance in zip(stored, p) if -chance > 0.75 * math.log(WAY)]
    examples.sort(key=lambda entry: ((entry[0] - query) ** 2).sum())
    examples += [(rest, WAY)] * (3 - len(examples))
    weight = np.exp([-((feature - query) ** 2).sum() for feature, _ in examples])
    weight = weight / weight.sum()
    tokens = np.stack(
        [np.concatenate([f, params.labels[label], query, [w]]) for (f, label), w in zip(examples, weight)]
    )
    tokens = tokens @ params.tokens + np.asarray(params.token_bias)[None]

    def norm(x, axes):
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)

    for layer in params.attentions:
        projected = np.asarray(norm(tokens @ layer.project, (0, 1)))
        attended = np.zeros_like(tokens)
        for head in range(2):
            q, k, v = np.split(projected[:, 768 * head : 768 * (head + 1)], 3, axis=1)
            attended[:, 256 * head : 256 * (head + 1)] = jax.nn.softmax(q / 16 @ k.T) @ v
        tokens = tokens + attended
        tokens = tokens + np.asarray(norm(np.maximum(tokens, 0) @ layer.linear, -1))
    np.testing.assert_allclose(outputs[2], weight @ tokens @ params.head, rtol=1e-8)


def test_no_gradient_through_the_memory():
    memory, params, stream, *_ = run([0, 1, 0, 1])

    def of_last(x):
        return jmeta.unroll(memory, params, {}, stream._replace(x=x))[0][3].sum()

    gradient = jax.jit(jax.grad(of_last))(stream.x)
    assert not gradient[:3].any()
    assert gradient[3].any()


def test_noise_comes_with_a_key_in_training_alone():
    memory = apl(WAY, jmeta.mlp(widths=()), noise=0.1)
    x = jnp.zeros((2, SIZE))
    params, state = memory.init(jax.random.key(0), x)
    feedback = jnp.full(2, -1)
    for train, key, noisy in ((True, jax.random.key(1), True), (True, None, False), (False, None, False)):
        (features, _), _ = memory.prepare(params, state, x, feedback, train=train, key=key)
        assert (features >= 0).all() and (features < 0.1).all()
        assert features.any() == noisy


def test_the_encoder_makes_64_features_and_treats_each_image_on_its_own():
    encoder = residual_encoder()
    for side in (14, 28, 32):
        shape = jax.ShapeDtypeStruct((2, side, side, 1), jnp.float32)
        params, state = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x), shape)
        features = jax.eval_shape(lambda p, s, x: encoder.apply(p, s, x, train=True)[0], params, state, shape)
        assert features.shape == (2, 64)
    small = residual_encoder(filters=8, groups=2)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    params, state = jax.jit(small.init)(jax.random.key(1), x)
    together, alone = jax.jit(lambda p: [small.apply(p, {}, part, train=True)[0] for part in (x, x[:1])])(
        params
    )
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)
    with pytest.raises(ValueError, match="filters=6, groups=4"):
        residual_encoder(filters=6, groups=4)


def test_settings_that_cannot_be():
    for options in ({"delay": 0}, {"neighbors": 0}, {"neighbors": 9, "slots": 8}):
        with pytest.raises(ValueError, match="apl: delay="):
            apl(WAY, jmeta.mlp(widths=()), **options)
