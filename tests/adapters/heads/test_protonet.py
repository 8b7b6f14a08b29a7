"""Prototypical networks: by hand, against the distance written out, and what padding must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.adapters.heads.protonet import protonet
from jmeta.outer.episode import adapt_and_predict
from jmeta.types import Batch


def logits_of(head, support, z, present=None):
    fast, info = head.fit({}, support, None, present=present, train=True)
    assert info == {}
    return head.predict({}, fast, z)


def test_two_classes_on_a_line_by_hand():
    """Means 1 and 5, query 2: squared distances 1 and 9, log-odds 8."""
    support = Batch(jnp.array([[0.0], [2.0], [5.0]]), jnp.array([0, 0, 1]))
    logits = logits_of(protonet(2), support, jnp.array([[2.0]]))
    np.testing.assert_allclose(logits, [[-1.0, -9.0]], atol=1e-12)
    np.testing.assert_allclose(jax.nn.softmax(logits)[0, 0], 0.999665, atol=1e-6)


@pytest.fixture(scope="module")
def episode():
    keys = jax.random.split(jax.random.key(0), 2)
    y = jnp.arange(12) % 4
    return Batch(jax.random.normal(keys[0], (12, 7)), y), jax.random.normal(keys[1], (5, 7)) + 3


def test_logits_and_gradients_are_those_of_the_distance_written_out(episode):
    support, queries = episode
    labels = jnp.array([0, 1, 2, 3, 0])

    def written_out(x, z):
        means = jnp.stack([x[support.y == way].mean(0) for way in range(4)])
        return -((z[:, None] - means[None]) ** 2).sum(-1)

    def loss(logits_of, x, z):
        return jmeta.cross_entropy(logits_of(x, z), Batch(z, labels))

    ours = lambda x, z: logits_of(protonet(4), support._replace(x=x), z)  # noqa: E731
    np.testing.assert_allclose(ours(support.x, queries), written_out(support.x, queries), rtol=1e-10)
    got, expected = (
        jax.grad(lambda x, z, f=f: loss(f, x, z), argnums=(0, 1))(support.x, queries)
        for f in (ours, written_out)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), got, expected)


def test_one_shot_is_the_nearest_neighbor(episode):
    support, queries = episode
    one = Batch(support.x[:4], support.y[:4])
    nearest = jnp.linalg.norm(queries[:, None] - one.x[None], axis=-1).argmin(1)
    np.testing.assert_array_equal(logits_of(protonet(4), one, queries).argmax(1), one.y[nearest])


def test_a_padded_episode_with_an_absent_way_is_the_smaller_one(episode):
    support, queries = episode
    small = Batch(support.x[support.y < 3], support.y[support.y < 3])
    expected = logits_of(protonet(3), small, queries)
    padded = Batch(
        jnp.concatenate([small.x, jnp.full((2, 7), 9.0)]), jnp.pad(small.y, (0, 2)),
        jnp.arange(11) < 9,
    )  # fmt: skip
    adapter = jmeta.on_features(jmeta.mlp(widths=()), protonet(4), 4)
    outputs, *_ = adapt_and_predict(adapter, {"body": {}, "head": {}}, {}, padded, queries,
                                    jax.random.key(0), train=True)  # fmt: skip
    np.testing.assert_allclose(outputs[:, :3], expected, rtol=1e-10)
    assert (outputs[:, 3] < -1e8).all()
