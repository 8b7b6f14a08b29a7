"""A classifier trained from a random start on each support set: the heads of the transfer baselines.

Chen et al., A Closer Look at Few-shot Classification, ICLR 2019 (Baseline, Baseline++); as Huisman et al.,
Machine Learning 2022, section 3.5.3 run them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jmeta.bounds import one_or_nan, spoil
from jmeta.losses import mask_absent_ways
from jmeta.metrics import accuracy
from jmeta.types import Array, Batch, BatchLoss, Head, Key, Metrics, Model, PyTree


class Schedule(NamedTuple):
    """The training of a support set: `steps` of Adam at `learning_rate`, each on `batch` examples drawn
    with replacement, and `evaluations` of the support accuracy, evenly spaced, the best of which wins.

    The last evaluation follows the last step. If `steps` is not divisible by `evaluations`, the remainder is
    run before the first one; if there are fewer steps than evaluations, every step is evaluated.
    """

    steps: int = 100
    learning_rate: float = 1e-3
    batch: int = 4
    evaluations: int = 4

    def check(self, who: str) -> None:
        """Raise ValueError, in the name of `who`, for a count below 1."""
        for name in ("steps", "batch", "evaluations"):
            count = getattr(self, name)
            if count < 1:
                raise ValueError(f"{who}: {name}={count}; expected at least 1")


def fine_tuned_head(model: Model, loss: BatchLoss, schedule: Schedule = Schedule()) -> Head:  # noqa: B008
    """Train a classifier on the features of each support set, from a random start of its own.

    Args:
      model: network from features to logits [example, way], without state: linear (`mlp(widths=())`) or
        `cosine_head` (Baseline++).
      loss: `(logits, Batch) -> scalar`.
      schedule: how a support set is trained on.

    Raises:
      ValueError: for a schedule with a count below 1.
    """
    schedule.check("fine_tuned_head")

    def fit(
        meta: PyTree, support: Batch, key: Key, *, present: Array | None, train: bool
    ) -> tuple[PyTree, Metrics]:
        key_start, key_batches = jax.random.split(key)
        start, _ = model.init(key_start, support.x)

        def outputs_of(params: PyTree, z: Array, mask: Array | None) -> Array:
            return model.apply(params, {}, z, train=False)[0]

        return train_on(outputs_of, loss, start, support, key_batches, schedule, present), {}

    def predict(meta: PyTree, params: PyTree, z: Array) -> Array:
        return model.apply(params, {}, z, train=False)[0]

    return Head(lambda key, z: {}, fit, predict, draws_at_test=True)


def train_on(
    outputs_of: Callable[[PyTree, PyTree, Array | None], Array],
    loss: BatchLoss,
    params: PyTree,
    support: Batch,
    key: Key,
    schedule: Schedule,
    present: Array | None = None,
) -> PyTree:
    """Train `outputs_of(params, x, mask)` on a support set; return the parameters of the best evaluation.

    A later evaluation replaces an earlier one only if its support accuracy is strictly better. Logits of the
    ways that are absent (`present` [way] false) are masked. A label out of range makes the parameters NaN.
    """
    tx = optax.adam(schedule.learning_rate)
    count = support.y.shape[0]
    weights = jnp.ones(count, jnp.float32) if support.mask is None else support.mask.astype(jnp.float32)

    def logits_of(params: PyTree, x: PyTree, mask: Array | None) -> Array:
        return mask_absent_ways(outputs_of(params, x, mask), present)

    def step(carry: tuple[PyTree, Any], key: Key) -> tuple[tuple[PyTree, Any], None]:
        params, opt = carry
        rows = jax.random.choice(key, count, (schedule.batch,), p=weights / weights.sum())
        drawn = Batch(jax.tree.map(lambda leaf: leaf[rows], support.x), support.y[rows])
        grads = jax.grad(lambda params: loss(logits_of(params, drawn.x, None), drawn))(params)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    def evaluate(carry: tuple, keys: Key) -> tuple[tuple, None]:
        (params, opt), best, best_accuracy = carry
        (params, opt), _ = lax.scan(step, (params, opt), keys)
        logits = logits_of(params, support.x, support.mask)
        current = accuracy(logits, support)["accuracy"].astype(best_accuracy.dtype)
        better = current > best_accuracy
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
        return ((params, opt), best, jnp.maximum(current, best_accuracy)), None

    evaluations = min(schedule.evaluations, schedule.steps)
    before = schedule.steps % evaluations
    keys = jax.random.split(key, schedule.steps)
    carry, _ = lax.scan(step, (params, tx.init(params)), keys[:before])
    evaluated = keys[before:].reshape(evaluations, -1)
    (_, best, best_accuracy), _ = lax.scan(evaluate, (carry, params, -jnp.ones(())), evaluated)
    return spoil(best, one_or_nan(best_accuracy >= 0))
