"""An adapter of one's own: attention over the support set, a head on the features of a shared network.

Vinyals et al., Matching Networks for One Shot Learning, NeurIPS 2016, without their context embeddings.

python -m experiments.examples.own_adapter
"""

import jax
import jax.numpy as jnp
import optax

import jmeta


def matching(way: int) -> jmeta.Head:
    """Predict the labels of the support examples, weighted by how much their features look alike."""

    def init(key, z):  # what the outer loop learns beside the network
        return {"log_scale": jnp.log(jnp.asarray(10.0, z.dtype))}

    def fit(meta, support, key, *, present, train):  # what is learned of a task
        return support, {}

    def predict(meta, support, z):
        queries, keys = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (z, support.x))
        attention = jax.nn.softmax(jnp.exp(meta["log_scale"]) * queries @ keys.T)  # [example, shot]
        return jnp.log(attention @ jax.nn.one_hot(support.y, way) + 1e-6)

    return jmeta.Head(init, fit, predict)


def main(steps: int = 100) -> tuple[float, float]:
    """Train for some outer updates; print and return the test accuracy before and after."""
    adapter = jmeta.on_features(jmeta.conv4(filters=16), matching(way=5))
    learner = jmeta.learner(adapter, jmeta.cross_entropy, optax.adam(3e-3), metrics=jmeta.accuracy)
    glyphs = jmeta.dataset("glyphs")
    train, unseen = (glyphs.episodes(split, way=5, shot=1, query=5) for split in ("train", "test"))

    @jax.jit
    def update(state, key):
        return learner.step(state, jax.vmap(train)(jax.random.split(key, 4)))[0]

    def test(state):
        values = jmeta.evaluate(learner, state, unseen, num_tasks=100, key=jax.random.key(1))
        return float(values["accuracy"].mean())

    state = learner.init(jax.random.key(0), jax.jit(train)(jax.random.key(0)))
    before = test(state)
    for key in jax.random.split(jax.random.key(2), steps):
        state = update(state, key)
    after = test(state)
    print(f"accuracy on unseen characters: {before:.1%} untrained, {after:.1%} meta-trained")
    return before, after


if __name__ == "__main__":
    main()
