"""BGD, Bayesian gradient descent: a Gaussian over the weights that every batch narrows (Zeno et al. 2018).

The weights are theta = mu + sigma * eps. With g the gradient of the batch's summed loss at theta,

    E1 = mean(g)   E2 = mean(g * eps)        over Monte-Carlo samples
    mu    <- mu - learning_rate * sigma^2 * E1
    sigma <- sigma * sqrt(1 + (sigma * E2 / 2)^2) - sigma^2 * E2 / 2
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.online.episodic import adapt_to_batch, episode_loss, outputs_of, score
from jmeta.online.sgd_state import batch_size, example_batch, require_positive
from jmeta.types import Adapter, Array, Batch, BatchLoss, Context, Key, Metrics, Online, PyTree


class Belief(NamedTuple):
    """A Gaussian over an adapter's meta-parameters: trees of their `mean` (mu) and their standard deviation
    `std` (sigma)."""

    mean: PyTree
    std: PyTree


class BeliefState(NamedTuple):
    """A learner's `belief`, the adapter's `model_state`, and the `memory` of past batches, () if none."""

    belief: Belief
    model_state: PyTree
    memory: PyTree


def init_belief(adapter: Adapter, deviation: float | Array, key: Key, x: PyTree) -> tuple[Belief, PyTree]:
    """Initialize the belief, with one `deviation` for all weights, and the model state for example inputs."""
    key_init, _ = jax.random.split(key)
    mean, model_state = adapter.init(key_init, example_batch(x).x)
    std = jax.tree.map(lambda leaf: jnp.full(leaf.shape, deviation, leaf.dtype), mean)
    return Belief(mean, std), model_state


def noise_like(tree: PyTree, key: Key) -> PyTree:
    """Draw standard normal numbers in the shapes of a tree."""
    leaves = jax.tree.leaves(tree)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves)]
    return jax.tree.unflatten(jax.tree.structure(tree), noise)


def narrow(belief: Belief, first: PyTree, second: PyTree, learning_rate: float | Array) -> Belief:
    """Update the belief by the moments E1 (`first`) and E2 (`second`) of a batch's gradient."""
    mean = jax.tree.map(
        lambda mu, sigma, e1: mu - jnp.asarray(learning_rate, mu.dtype) * sigma**2 * e1,
        belief.mean, belief.std, first,
    )  # fmt: skip
    std = jax.tree.map(
        lambda sigma, e2: sigma * jnp.sqrt(1 + (sigma * e2 / 2) ** 2) - sigma**2 * e2 / 2, belief.std, second
    )
    return Belief(mean, std)


def update_belief(
    adapter: Adapter,
    loss: BatchLoss,
    belief: Belief,
    model_state: PyTree,
    support: Batch,
    query: Batch,
    key: Key,
    *,
    learning_rate: float | Array,
    samples: int,
) -> tuple[Belief, Metrics]:
    """Draw weights, adapt each draw to `support`, predict `query`, and narrow the belief by its labels.

    Returns the belief and the mean over the draws of the prediction's loss and accuracy. The draws are taken
    one after another, so that memory does not grow with their number.
    """

    def one(sums: PyTree, key: Key) -> tuple[PyTree, Metrics]:
        noise = noise_like(belief.mean, key)
        theta = jax.tree.map(lambda mu, sigma, eps: mu + sigma * eps, belief.mean, belief.std, noise)

        def objective(meta: PyTree) -> tuple[Array, PyTree]:
            return episode_loss(adapter, loss, meta, model_state, support, query)

        grads, outputs = jax.grad(objective, has_aux=True)(theta)
        moments = (grads, jax.tree.map(jnp.multiply, grads, noise))
        return jax.tree.map(jnp.add, sums, moments), score(loss, outputs, query)

    zeros = jax.tree.map(jnp.zeros_like, belief.mean)
    sums, metrics = jax.lax.scan(one, (zeros, zeros), jax.random.split(key, samples))
    scale = _count(query) / samples  # the loss is a mean over the batch, and the belief's is a sum
    first, second = jax.tree.map(lambda leaf: scale * leaf, sums)
    return narrow(belief, first, second, learning_rate), {name: v.mean() for name, v in metrics.items()}


def _count(batch: Batch) -> Array | int:
    return batch_size(batch) if batch.mask is None else batch.mask.sum()


def bgd(
    adapter: Adapter,
    loss: BatchLoss,
    *,
    learning_rate: float | Array = 10.0,
    deviation: float | Array = 0.01,
    samples: int = 5,
) -> Online:
    """Learn the weights of a network, an adapter without inner steps (`gradient_adapter(..., steps=0)`).

    Args:
      adapter, loss: the network, and `loss(outputs, batch)`, a mean over the batch.
      learning_rate: step size of the means (eta).
      deviation: initial standard deviation of every weight.
      samples: draws of the weights at each batch.

    Raises:
      ValueError: for numbers that are not positive.
    """
    require_positive("bgd", learning_rate=learning_rate, deviation=deviation, samples=samples)

    def init(key: Key, x: PyTree) -> BeliefState:
        return BeliefState(*init_belief(adapter, deviation, key, x), ())

    def observe(
        state: BeliefState, batch: Batch, key: Key, *, context: Context | None = None
    ) -> tuple[BeliefState, Metrics]:
        belief, metrics = update_belief(
            adapter, loss, state.belief, state.model_state, example_batch(batch.x), batch, key,
            learning_rate=learning_rate, samples=samples,
        )  # fmt: skip
        return state._replace(belief=belief), metrics

    def predict(state: BeliefState, x: PyTree) -> PyTree:
        mean = state.belief.mean
        fast = adapt_to_batch(adapter, mean, state.model_state, example_batch(x))
        return outputs_of(adapter, mean, fast, state.model_state, x)

    return Online(init, observe, predict)
