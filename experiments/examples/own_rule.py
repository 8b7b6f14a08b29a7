"""An inner rule of one's own: sign descent, at a meta-learned rate for each array of parameters.

python -m experiments.examples.own_rule
"""

import jax
import jax.numpy as jnp
import optax

import jmeta


def sign_descent(rate: float) -> jmeta.Rule:
    """Step against the sign of the gradient: w <- w - exp(log_rate) sign(gradient)."""

    def init(key, params):  # what the outer loop learns
        return jax.tree.map(lambda leaf: jnp.log(jnp.asarray(rate, leaf.dtype)), params)

    def start(log_rates, params, key):  # what the rule remembers from step to step
        return None

    def update(log_rates, gradients, carry, params, *, loss, step):
        return jax.tree.map(lambda log_rate, g: -jnp.exp(log_rate) * jnp.sign(g), log_rates, gradients), carry

    return jmeta.Rule(init, start, update)


def main(steps: int = 1000) -> tuple[float, float]:
    """Train for some outer updates; print and return the test error before and after."""
    network, loss = jmeta.mlp(widths=(40, 40), outputs=1), jmeta.mean_squared_error
    learner = jmeta.learner(
        jmeta.gradient_adapter(network, loss, sign_descent(0.01), steps=5), loss, optax.adam(1e-3)
    )
    waves = jmeta.sinusoids(shot=10, query=10)

    @jax.jit
    def update(state, key):
        return learner.step(state, jax.vmap(waves)(jax.random.split(key, 25)))[0]

    def test(state):
        losses = jmeta.evaluate(learner, state, waves, num_tasks=500, key=jax.random.key(1))["loss"]
        return float(losses.mean())

    state = learner.init(jax.random.key(0), waves(jax.random.key(0)))
    before = test(state)
    for key in jax.random.split(jax.random.key(2), steps):
        state = update(state, key)
    after = test(state)
    print(f"squared error after five steps: {before:.2f} untrained, {after:.2f} meta-trained")
    print(
        "learned rates, from 0.01:",
        jax.tree.map(lambda leaf: round(float(jnp.exp(leaf)), 4), state.meta["rule"]),
    )
    return before, after


if __name__ == "__main__":
    main()
