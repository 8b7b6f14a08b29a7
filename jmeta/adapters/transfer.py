"""Transfer baselines: pre-train on all classes at once, then train a classifier on the support set.

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

from jmeta.losses import masked_mean
from jmeta.types import Adapter, Array, Batch, Key, Metrics, Model, PyTree

Loss = Callable[[PyTree, Batch], Array]


class Schedule(NamedTuple):
    """How a support set is trained on: `steps` of Adam at `learning_rate`, each on `batch` examples drawn
    with replacement, and `checks` evenly spaced looks at the support accuracy, of which the best is kept.

    The last look is after the last step; of steps that do not divide evenly the first look is the later, and
    fewer steps than `checks` are each looked at.
    """

    steps: int = 100
    learning_rate: float = 1e-3
    batch: int = 4
    checks: int = 4


HUISMAN = Schedule()


def from_scratch(network: Model, loss: Loss, *, schedule: Schedule = HUISMAN) -> Adapter:
    """Train all weights on each support set from one random start: TrainFromScratch.

    `network` has the episode's ways as outputs; batch normalisation uses the statistics of the batch at hand
    throughout. Nothing is meta-learned. Raises ValueError for a schedule with a count below 1.
    """
    _check("from_scratch", schedule)

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        return network.init(key, x)

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key, *, train: bool
    ) -> tuple[PyTree, PyTree, Metrics]:
        def outputs_of(params: PyTree, x: PyTree) -> Array:
            return network.apply(params, state, x, train=True)[0]

        return train_on(outputs_of, loss, meta, support, key, schedule), state, {}

    def predict(
        meta: PyTree, fast: PyTree, state: PyTree, x: PyTree, key: Key, *, train: bool, mask: Array | None
    ) -> tuple[PyTree, PyTree]:
        return network.apply(fast, state, x, train=True, mask=mask)[0], state

    return Adapter(init, adapt, predict)


def pretrained(
    body: Model, head: Callable[[int], Model], classes: int, way: int, loss: Loss,
    *, schedule: Schedule = HUISMAN,
) -> Adapter:  # fmt: skip
    """Pre-train body and head on all classes; at test train a fresh head on frozen features.

    Args:
      body: the network whose features are kept; its batch normalisation keeps running averages.
      head: `outputs -> Model` of a classifier on features: linear (finetuning) or cosine (Baseline++).
      classes: number of training classes. A training task is a plain batch, whose query labels are classes
        (`jmeta.data.episodes.flat_batches`); its support set is not looked at.
      way: ways of a test episode.
      loss: `(logits, Batch) -> scalar` of both stages.
      schedule: how a support set is trained on.

    Raises:
      ValueError: for a schedule with a count below 1.
    """
    _check("pretrained", schedule)
    of_classes, of_ways = head(classes), head(way)

    def features(
        meta: PyTree, state: PyTree, x: PyTree, *, train: bool, mask: Array | None = None
    ) -> tuple[PyTree, PyTree]:
        return body.apply(meta["body"], state, x, train=train, mask=mask)

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_body, key_head = jax.random.split(key)
        params, state = body.init(key_body, x)
        z = jnp.zeros_like(jax.eval_shape(lambda: body.apply(params, state, x, train=True)[0]))
        return {"body": params, "head": of_classes.init(key_head, z)[0]}, state

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key, *, train: bool
    ) -> tuple[PyTree, PyTree, Metrics]:
        if train:
            return None, state, {}
        key_head, key_batches = jax.random.split(key)
        z, _ = features(meta, state, support.x, train=False, mask=support.mask)

        def outputs_of(params: PyTree, z: Array) -> Array:
            return of_ways.apply(params, {}, z, train=False)[0]

        start = of_ways.init(key_head, z)[0]
        return train_on(outputs_of, loss, start, support._replace(x=z), key_batches, schedule), state, {}

    def predict(
        meta: PyTree, fast: PyTree, state: PyTree, x: PyTree, key: Key, *, train: bool, mask: Array | None
    ) -> tuple[PyTree, PyTree]:
        z, state = features(meta, state, x, train=train, mask=mask)
        head, params = (of_classes, meta["head"]) if train else (of_ways, fast)
        return head.apply(params, {}, z, train=train)[0], state

    return Adapter(init, adapt, predict)


def train_on(
    outputs_of: Callable[[PyTree, PyTree], Array],
    loss: Loss,
    params: PyTree,
    support: Batch,
    key: Key,
    schedule: Schedule,
) -> PyTree:
    """Train `outputs_of(params, x)` on a support set by its `schedule`; the parameters of the best check.

    A later check replaces an earlier one only where the support accuracy is strictly better.
    """
    tx = optax.adam(schedule.learning_rate)
    weights = jnp.ones(support.y.shape[0]) if support.mask is None else support.mask

    def step(carry: tuple[PyTree, Any], key: Key) -> tuple[tuple[PyTree, Any], None]:
        params, opt = carry
        rows = jax.random.choice(key, support.y.shape[0], (schedule.batch,), p=weights / weights.sum())
        drawn = Batch(jax.tree.map(lambda leaf: leaf[rows], support.x), support.y[rows])
        grads = jax.grad(lambda params: loss(outputs_of(params, drawn.x), drawn))(params)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    def check(carry: tuple, keys: Key) -> tuple[tuple, None]:
        (params, opt), best, best_accuracy = carry
        (params, opt), _ = lax.scan(step, (params, opt), keys)
        right = (outputs_of(params, support.x).argmax(-1) == support.y).astype(best_accuracy.dtype)
        accuracy = masked_mean(right, support.mask)
        better = accuracy > best_accuracy
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
        return ((params, opt), best, jnp.maximum(accuracy, best_accuracy)), None

    looks = min(schedule.checks, schedule.steps)
    unchecked = schedule.steps % looks
    keys = jax.random.split(key, schedule.steps)
    carry, _ = lax.scan(step, (params, tx.init(params)), keys[:unchecked])
    checked = keys[unchecked:].reshape(looks, -1)
    (_, best, _), _ = lax.scan(check, (carry, params, -jnp.ones(())), checked)
    return best


def _check(who: str, schedule: Schedule) -> None:
    for name in ("steps", "batch", "checks"):
        count = getattr(schedule, name)
        if count < 1:
            raise ValueError(f"{who}: {name}={count}; expected at least 1")
