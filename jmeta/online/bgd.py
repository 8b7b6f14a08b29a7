"""BGD, Bayesian gradient descent: a Gaussian over the weights that every batch narrows (Zeno et al. 2018).

The weights are theta = mu + sigma * eps. With g the gradient of the batch's summed loss at theta,

    E1 = mean(g)   E2 = mean(g * eps)        over Monte-Carlo samples
    mu    <- mu - rate * sigma^2 * E1
    sigma <- sigma * sqrt(1 + (sigma * E2 / 2)^2) - sigma^2 * E2 / 2
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jmeta.online.episodic import (
    BatchLoss,
    EpisodicState,
    adapt,
    begin,
    episode,
    outputs_of,
    score,
)
from jmeta.online.state import example_batch, require
from jmeta.types import Adapter, Array, Batch, Key, LearnerState, Metrics, Online, PyTree


def uncertain(slow: LearnerState, deviation: float | Array) -> LearnerState:
    """Slow weights as the means of a belief, with its standard deviations in the optimiser's place."""
    opt = jax.tree.map(lambda leaf: jnp.full(leaf.shape, deviation, leaf.dtype), slow.meta)
    return slow._replace(opt=opt)


def noise_like(tree: PyTree, key: Key) -> PyTree:
    """Standard normal numbers in the shape of a tree."""
    leaves = jax.tree.leaves(tree)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves)]
    return jax.tree.unflatten(jax.tree.structure(tree), noise)


def narrowed(slow: LearnerState, first: PyTree, second: PyTree, rate: float | Array) -> LearnerState:
    """The belief after a batch with the moments E1 (`first`) and E2 (`second`) of its gradient."""
    mean = jax.tree.map(
        lambda mu, sigma, e1: mu - jnp.asarray(rate, mu.dtype) * sigma**2 * e1, slow.meta, slow.opt, first
    )
    deviation = jax.tree.map(
        lambda sigma, e2: sigma * jnp.sqrt(1 + (sigma * e2 / 2) ** 2) - sigma**2 * e2 / 2, slow.opt, second
    )
    return slow._replace(step=slow.step + 1, meta=mean, opt=deviation)


def learn(
    adapter: Adapter,
    loss: BatchLoss,
    slow: LearnerState,
    support: Batch,
    query: Batch,
    key: Key,
    *,
    rate: float | Array,
    samples: int,
) -> tuple[LearnerState, Metrics]:
    """Draw weights, adapt each draw to `support`, predict `query`, and narrow the belief by its labels.

    Returns the belief and the mean over the draws of the prediction's loss and accuracy. The draws are taken
    one after another, so that memory does not grow with their number.
    """

    def one(sums: PyTree, key: Key) -> tuple[PyTree, Metrics]:
        noise = noise_like(slow.meta, key)
        drawn = jax.tree.map(lambda mu, sigma, eps: mu + sigma * eps, slow.meta, slow.opt, noise)

        def objective(meta: PyTree) -> tuple[Array, PyTree]:
            return episode(adapter, loss, slow, meta, support, query)

        grads, outputs = jax.grad(objective, has_aux=True)(drawn)
        moments = (grads, jax.tree.map(jnp.multiply, grads, noise))
        return jax.tree.map(jnp.add, sums, moments), score(loss, outputs, query)

    zeros = jax.tree.map(jnp.zeros_like, slow.meta)
    sums, measured = jax.lax.scan(one, (zeros, zeros), jax.random.split(key, samples))
    scale = query.y.shape[0] / samples  # the loss is a mean over the batch, and the belief's is a sum
    first, second = jax.tree.map(lambda leaf: scale * leaf, sums)
    return narrowed(slow, first, second, rate), {name: value.mean() for name, value in measured.items()}


def bgd(
    adapter: Adapter,
    loss: BatchLoss,
    *,
    rate: float | Array = 10.0,
    deviation: float | Array = 0.01,
    samples: int = 5,
) -> Online:
    """BGD on the weights of a network, an adapter without inner steps (`gradient_adapter(..., steps=0)`).

    Args:
      adapter, loss: the network, and `loss(outputs, batch)`, a mean over the batch.
      rate: of the means (eta).
      deviation: of every weight at first.
      samples: draws of the weights at each batch.

    Raises:
      ValueError: for numbers that are not positive.
    """
    require("bgd", rate=rate, deviation=deviation, samples=samples)

    def init(key: Key, x: PyTree) -> EpisodicState:
        return EpisodicState(uncertain(begin(adapter, None, key, x), deviation), (), ())

    def observe(
        state: EpisodicState, batch: Batch, *, task: Array, first_pass: Array, key: Key
    ) -> tuple[EpisodicState, Metrics]:
        unlabelled = example_batch(batch.x)
        slow, measured = learn(adapter, loss, state.slow, unlabelled, batch, key, rate=rate, samples=samples)
        return state._replace(slow=slow), measured

    def predict(state: EpisodicState, x: PyTree) -> PyTree:
        fast = adapt(adapter, state.slow, state.slow.meta, example_batch(x))
        return outputs_of(adapter, state.slow, state.slow.meta, fast, x)

    return Online(init, observe, predict)
