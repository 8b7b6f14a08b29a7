"""Transfer baselines: train on a support set from scratch, or on features of a network trained before.

Chen et al., A Closer Look at Few-shot Classification, ICLR 2019 (Baseline, Baseline++); as Huisman et al.,
Machine Learning 2022, section 3.5.3 run them.

Deviations. Batch normalization keeps ordinary running averages (momentum 0.9); in the released code they are
those of the last batch. The best of four evaluations of the support accuracy is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.adapters.heads.fine_tuned import Schedule, fine_tuned_head, train_on
from jmeta.adapters.on_features import on_features
from jmeta.losses import mask_absent_ways, padded_ways
from jmeta.models.heads import cosine_head
from jmeta.models.mlp import mlp
from jmeta.types import Adapter, Array, Batch, BatchLoss, Key, Metrics, Model, PyTree

HUISMAN = Schedule()


class Trained(NamedTuple):
    """A network trained on a task: its `params`, and the `present` ways [way] if episodes are padded (else
    None)."""

    params: PyTree
    present: Array | None


def from_scratch(model: Model, loss: BatchLoss, *, schedule: Schedule = HUISMAN) -> Adapter:
    """Train all weights on each support set from one random start: TrainFromScratch.

    `model` has the episode's ways as outputs; batch normalization uses the statistics of the batch at hand
    throughout. Nothing is meta-learned. In padded episodes, logits of ways without a real support example are
    masked. Raises ValueError for a schedule with a count below 1.
    """
    schedule.check("from_scratch")

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key, *, train: bool
    ) -> tuple[Trained, PyTree, Metrics]:
        def outputs_of(params: PyTree, x: PyTree, mask: Array | None) -> Array:
            return model.apply(params, state, x, train=True, mask=mask)[0]

        present = padded_ways(support, lambda: outputs_of(meta, support.x, support.mask))
        params = train_on(outputs_of, loss, meta, support, key, schedule, present)
        return Trained(params, present), state, {}

    def predict(
        meta: PyTree,
        fast: Trained,
        state: PyTree,
        x: PyTree,
        key: Key,
        *,
        train: bool,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        logits, _ = model.apply(fast.params, state, x, train=True, mask=mask)
        return mask_absent_ways(logits, fast.present), state

    return Adapter(model.init, adapt, predict, draws_at_test=True)


def pretrained(
    body: Model,
    head: Callable[[int], Model],
    classes: int,
    way: int,
    loss: BatchLoss,
    *,
    schedule: Schedule = HUISMAN,
) -> Adapter:
    """Pre-train body and classifier on all classes; at test train a fresh classifier on frozen features.

    The meta-parameters are {"body", "head"}, the head that of the training classes. A training task is a
    plain batch, whose query labels are classes (`jmeta.supervised_batches`); its support set is ignored. A
    test task is adapted to by a `fine_tuned_head` on features normalized with running averages.

    Args:
      body: network from inputs to features [example, feature].
      head: `outputs -> Model` of a classifier on features, linear or cosine.
      classes: number of training classes.
      way: ways of a test episode.
      loss: `(logits, Batch) -> scalar` of both stages.
      schedule: how a support set is trained on.

    Raises:
      ValueError: for a schedule with a count below 1.
    """
    schedule.check("pretrained")
    of_classes = head(classes)
    testing = on_features(body, fine_tuned_head(head(way), loss, schedule), way, norm="running")

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_body, key_head = jax.random.split(key)
        params, state = body.init(key_body, x)
        z = jnp.zeros_like(jax.eval_shape(lambda: body.apply(params, state, x, train=True)[0]))
        return {"body": params, "head": of_classes.init(key_head, z)[0]}, state

    def encode(
        meta: PyTree,
        state: PyTree,
        x: PyTree,
        *,
        train: bool,
        key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        return (x, state) if train else testing.encode(meta, state, x, train=train, key=key, mask=mask)

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key, *, train: bool
    ) -> tuple[PyTree, PyTree, Metrics]:
        return (None, state, {}) if train else testing.adapt(meta, state, support, key, train=train)

    def predict(
        meta: PyTree,
        fast: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key,
        *,
        train: bool,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        if not train:
            return testing.predict(meta, fast, state, x, key, train=train, mask=mask)
        z, state = body.apply(meta["body"], state, x, train=train, mask=mask)
        return of_classes.apply(meta["head"], {}, z, train=train)[0], state

    return Adapter(init, adapt, predict, encode, draws_at_test=True)


def scratch(
    model: Model, loss: BatchLoss, *, inner_steps: int = 100, inner_lr: float = 0.001, adapt_batch: int = 4
) -> Adapter:
    """Train from scratch: `from_scratch` with steps and rate of Adam, and support examples of a step."""
    return from_scratch(model, loss, schedule=Schedule(inner_steps, inner_lr, adapt_batch))


def finetune(
    body: Model,
    loss: BatchLoss,
    *,
    classes: int,
    way: int,
    cosine: bool = False,
    inner_steps: int = 100,
    inner_lr: float = 0.001,
    adapt_batch: int = 4,
) -> Adapter:
    """Fine-tune a linear classifier, or a cosine one (Baseline++): `pretrained` with steps and rate of Adam,
    and support examples of a step."""
    head = cosine_head if cosine else lambda outputs: mlp(widths=(), outputs=outputs, initialize="uniform")
    return pretrained(body, head, classes, way, loss, schedule=Schedule(inner_steps, inner_lr, adapt_batch))
