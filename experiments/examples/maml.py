"""MAML on sine waves: learn initial weights from which one gradient step fits a new wave.

python -m experiments.examples.maml
"""

import jax
import optax

import jmeta


def main(steps: int = 2000) -> tuple[float, float]:
    """Train for some outer updates; print and return the test error before and after."""
    network, loss = jmeta.mlp(widths=(40, 40), outputs=1), jmeta.mean_squared_error
    maml = jmeta.maml(network, loss, inner_lr=0.01, inner_steps=1)
    learner = jmeta.learner(maml, loss, optax.adam(1e-3))
    waves = jmeta.sinusoids(shot=10, query=10)  # a sampler: key -> Task

    @jax.jit
    def update(state, key):
        tasks = jax.vmap(waves)(jax.random.split(key, 25))
        return learner.step(state, tasks)[0]

    def test(state):
        losses = jmeta.evaluate(learner, state, waves, num_tasks=500, key=jax.random.key(1))["loss"]
        return float(losses.mean())

    state = learner.init(jax.random.key(0), waves(jax.random.key(0)))
    before = test(state)
    for key in jax.random.split(jax.random.key(2), steps):
        state = update(state, key)
    after = test(state)
    print(f"squared error after one step on ten points: {before:.2f} untrained, {after:.2f} meta-trained")
    return before, after


if __name__ == "__main__":
    main()
