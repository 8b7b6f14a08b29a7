"""COMLN on drawn characters: learn features, and how long a classifier of them follows its gradient flow.

python -m experiments.examples.comln
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import jmeta


class Tower(nn.Module):
    """A small network from images [example, 28, 28, 1] to features [example, 288]."""

    @nn.compact
    def __call__(self, x):
        """Compute the features."""
        for _ in range(3):
            x = nn.relu(nn.GroupNorm(4)(nn.Conv(32, (3, 3), strides=2, padding=1)(x)))
        return x.reshape(len(x), -1)


def main(steps: int = 200) -> tuple[float, float]:
    """Train for some outer updates; print and return the test accuracy before and after."""
    comln = jmeta.comln(jmeta.from_linen(Tower()), way=5)
    learner = jmeta.learner(comln, jmeta.cross_entropy, optax.adam(3e-3), metrics=jmeta.accuracy)
    glyphs = jmeta.dataset("glyphs")  # whose splits share no character
    train, unseen = (glyphs.episodes(split, way=5, shot=1, query=5) for split in ("train", "test"))

    @jax.jit
    def update(state, key):
        return learner.step(state, jax.vmap(train)(jax.random.split(key, 8)))[0]

    def test(state):
        values = jmeta.evaluate(learner, state, unseen, num_tasks=200, key=jax.random.key(1))
        return float(values["accuracy"].mean())

    state = learner.init(jax.random.key(0), jax.jit(train)(jax.random.key(0)))
    before = test(state)
    for key in jax.random.split(jax.random.key(2), steps):
        state = update(state, key)
    after, horizon = test(state), float(jnp.exp(state.meta["head"]["log_horizon"]))
    print(f"accuracy on unseen characters: {before:.1%} untrained, {after:.1%} meta-trained")
    print(f"learned horizon: T = {horizon:.2f}, from 1")
    return before, after


if __name__ == "__main__":
    main()
