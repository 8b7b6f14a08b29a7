"""The methods that OSAKA compares: a network, its adaptation to a batch, and its learning from the stream.

Caccia et al., Online Fast Adaptation and Knowledge Accumulation, NeurIPS 2020; the sparse methods: von Oswald
et al., Learning where to learn, NeurIPS 2021, section 4.2. Every method classifies images with a conv4 whose
batch normalization uses the batch at hand; the scale and offset of its normalization do not adapt. Rates and
thresholds may be traced arrays [], so that a grid of them needs one program.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import optax

from jmeta.adapters.gradient import gradient_adapter
from jmeta.adapters.heads.anil import anil
from jmeta.adapters.metacog import metacog
from jmeta.inner.gradient import Order
from jmeta.losses import cross_entropy
from jmeta.models.conv4 import conv4
from jmeta.models.mlp import mlp
from jmeta.online.bgd import bgd
from jmeta.online.c_maml import Restart, c_maml
from jmeta.online.frozen import frozen
from jmeta.online.meta_bgd import meta_bgd
from jmeta.online.online_adam import online_adam
from jmeta.rules.masked_sgd import masked_sgd, rectified_sgd
from jmeta.rules.sgd import sgd
from jmeta.types import Adapter, Array, Model, Online, Rule

FINETUNING_RATE = 0.05  # of the one inner step in the pre-training of fine-tuning


class Method(NamedTuple):
    """A learner of the stream, and how it is meta-trained beforehand.

    `online`: the learner. `pretraining`: the adapter that an episodic outer loop meta-trains before the
    stream, with the optimizer `tx`; its result replaces the slow weights of `online`'s state. Both are None
    if the method has no pre-training.
    """

    online: Online
    pretraining: Adapter | None = None
    tx: optax.GradientTransformation | None = None


def osaka_online_adam(way: int, *, filters: int = 64, learning_rate: float | Array) -> Method:
    """Train the network by Adam on every batch."""
    adapter = _without_adaptation(way, filters)
    return Method(online_adam(adapter, cross_entropy, tx=optax.adam(learning_rate)))


def osaka_finetuning(
    way: int, *, filters: int = 64, learning_rate: float | Array, order: Order = "mixed"
) -> Method:
    """Pre-train the network by MAML with one inner step, then train it by Adam on every batch."""
    tx = optax.adam(learning_rate)
    online = online_adam(_without_adaptation(way, filters, order), cross_entropy, tx=tx)
    pretraining = gradient_adapter(
        _network(way, filters), cross_entropy, sgd(FINETUNING_RATE), 1, adapted=_adapts, order=order
    )
    return Method(online, pretraining, tx)


def osaka_maml(
    way: int,
    *,
    filters: int = 64,
    learning_rate: float | Array,
    inner_lr: float,
    inner_steps: int,
    order: Order = "mixed",
) -> Method:
    """Pre-train by MAML, then adapt anew to every batch; the slow weights stay fixed."""
    adapter = _gradient(way, filters, sgd(inner_lr), inner_steps, order)
    return Method(frozen(adapter, cross_entropy), adapter, optax.adam(learning_rate))


def osaka_anil(
    way: int,
    *,
    filters: int = 64,
    learning_rate: float | Array,
    inner_lr: float,
    inner_steps: int,
    order: Order = "mixed",
) -> Method:
    """Pre-train by ANIL, then adapt the last layer anew to every batch; the slow weights stay fixed."""
    head = mlp(widths=(), outputs=way, initialize="pytorch")
    adapter = anil(_network(None, filters), head, cross_entropy, sgd(inner_lr), inner_steps, order=order)
    return Method(frozen(adapter, cross_entropy), adapter, optax.adam(learning_rate))


def osaka_bgd(
    way: int,
    *,
    filters: int = 64,
    learning_rate: float | Array = 10.0,
    deviation: float | Array = 0.01,
    samples: int = 5,
) -> Method:
    """Learn the network by Bayesian gradient descent, without adaptation."""
    adapter = _without_adaptation(way, filters)
    return Method(
        bgd(adapter, cross_entropy, learning_rate=learning_rate, deviation=deviation, samples=samples)
    )


def osaka_metacog(
    way: int,
    *,
    filters: int = 64,
    learning_rate: float | Array = 10.0,
    deviation: float | Array = 0.01,
    samples: int = 5,
    inner_lr: float,
    inner_steps: int,
    order: Order = "mixed",
    mask_initial: float = 0.5,
    mask_penalty: float = 0.0,
) -> Method:
    """Adapt masks of the convolutions and the classifier; Bayesian gradient descent learns the weights."""
    adapter = metacog(
        _network(way, filters),
        cross_entropy,
        inner_lr=inner_lr,
        inner_steps=inner_steps,
        masked=lambda path: path.startswith("conv"),
        mask_initial=mask_initial,
        mask_penalty=mask_penalty,
        order=order,
    )
    return Method(
        meta_bgd(adapter, cross_entropy, learning_rate=learning_rate, deviation=deviation, samples=samples)
    )


def osaka_metabgd(
    way: int,
    *,
    filters: int = 64,
    learning_rate: float | Array = 10.0,
    deviation: float | Array = 0.01,
    samples: int = 5,
    inner_lr: float,
    inner_steps: int,
    order: Order = "mixed",
) -> Method:
    """Adapt the network to every batch, from weights that Bayesian gradient descent learns."""
    adapter = _gradient(way, filters, sgd(inner_lr), inner_steps, order)
    return Method(
        meta_bgd(adapter, cross_entropy, learning_rate=learning_rate, deviation=deviation, samples=samples)
    )


def osaka_c_maml(
    way: int,
    *,
    filters: int = 64,
    learning_rate: float | Array,
    inner_lr: float | Array,
    inner_steps: int,
    order: Order = "mixed",
    learn_rates: bool = True,
    threshold: float | Array = math.inf,
    modulation: float | Array = math.inf,
    prolonged: bool = True,
    restart: Restart = "code",
) -> Method:
    """Pre-train by MAML, and learn the stream by C-MAML.

    Args:
      way: classes of a batch.
      filters: channels of the network.
      learning_rate: of Adam, in the pre-training and in the stream.
      inner_lr, inner_steps, order: of the inner loop, see `jmeta.gradient_adapter`.
      learn_rates: learn the inner rate of each parameter array, from `inner_lr` on.
      threshold, modulation: see `jmeta.c_maml`; infinity does without.
      prolonged, restart: see `jmeta.c_maml`.
    """
    rule = sgd(inner_lr, learn="leaf" if learn_rates else None)
    tx = optax.adam(learning_rate)
    adapter = _gradient(way, filters, rule, inner_steps, order)
    phases = _phases(threshold, modulation, prolonged, restart)
    return Method(c_maml(adapter, cross_entropy, tx=tx, **phases), adapter, tx)


def osaka_sparse_c_maml(
    way: int,
    *,
    filters: int = 64,
    learning_rate: float | Array,
    mask_learning_rate: float | Array,
    inner_lr: float | Array,
    inner_steps: int,
    order: Order = "mixed",
    threshold: float | Array = math.inf,
    modulation: float | Array = math.inf,
    prolonged: bool = True,
    restart: Restart = "code",
    rectified: bool = False,
) -> Method:
    """Pre-train by sparse-MAML, and learn the stream by C-MAML: the inner loop adapts learned weights alone.

    The masks' scores have an Adam of their own, with the rate `mask_learning_rate`. If `rectified`, the rates
    are max(0, score) instead of `inner_lr` times a binary mask (sparse-ReLU-MAML). The other arguments are
    those of `osaka_c_maml`.
    """
    rule = rectified_sgd(inner_lr) if rectified else masked_sgd(inner_lr)
    rates = {"params": learning_rate, "rule": mask_learning_rate}
    tx = optax.partition(jax.tree.map(optax.adam, rates), {"params": "params", "rule": "rule"})
    adapter = _gradient(way, filters, rule, inner_steps, order)
    phases = _phases(threshold, modulation, prolonged, restart)
    return Method(c_maml(adapter, cross_entropy, tx=tx, **phases), adapter, tx)


def _network(way: int | None, filters: int) -> Model:
    """Make the network; without a classifier if `way` is None."""
    return conv4(filters=filters, head=way, weights="per_task", initialize="pytorch")


def _gradient(way: int, filters: int, rule: Rule, steps: int, order: Order) -> Adapter:
    """Adapt the network by gradient steps on its convolutions and its classifier."""
    return gradient_adapter(_network(way, filters), cross_entropy, rule, steps, adapted=_adapts, order=order)


def _without_adaptation(way: int, filters: int, order: Order = "mixed") -> Adapter:
    """Make the network an adapter that takes no inner steps."""
    return _gradient(way, filters, sgd(FINETUNING_RATE), 0, order)


def _adapts(path: str) -> bool:
    """Select all parameters but the scales and offsets of normalization layers."""
    return not path.startswith("norm")


def _phases(
    threshold: float | Array, modulation: float | Array, prolonged: bool, restart: Restart
) -> dict[str, Any]:
    """Collect the arguments of `c_maml`, with None in place of infinity."""
    finite = {"threshold": _finite_or_none(threshold), "modulation": _finite_or_none(modulation)}
    return {**finite, "prolonged": prolonged, "restart": restart}


def _finite_or_none(value: float | Array) -> float | Array | None:
    return None if isinstance(value, float) and math.isinf(value) else value
