"""From the flags of OSAKA to what adapts to a batch and what learns the stream."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import jax
import optax

from experiments.osaka import BAYESIAN, C_MAML
from jmeta.adapters.gradient import anil, gradient_adapter
from jmeta.adapters.metacog import metacog
from jmeta.losses import cross_entropy
from jmeta.models.conv4 import conv4
from jmeta.models.mlp import mlp
from jmeta.online.catalog import build_episodic
from jmeta.rules.masked_sgd import masked_sgd, rectified_sgd
from jmeta.rules.sgd import sgd
from jmeta.types import Adapter, Online, Rule

SPARSE = ("sparse_c_maml", "sparse_relu_c_maml")
LEARNERS = {"online_adam": "online_adam", "finetuning": "online_adam", "maml": "frozen", "anil": "frozen",
            "bgd": "bgd", "metacog": "meta_bgd", "metabgd": "meta_bgd"}  # fmt: skip
FINETUNING_RATE = 0.05  # of the one inner step of fine-tuning's pre-training


def make_adapter(settings: SimpleNamespace, *, pretraining: bool = False) -> Adapter:
    """What adapts to a batch, in pre-training and in the stream."""
    network = functools.partial(conv4, filters=settings.filters, weights="per_task", initialise="pytorch")
    whole = network(head=settings.way)
    if settings.algorithm in ("online_adam", "bgd", "finetuning"):
        steps = 1 if pretraining else 0
        order = settings.order or "mixed"
        return gradient_adapter(
            whole, cross_entropy, sgd(FINETUNING_RATE), steps, adapted=_adapts, order=order
        )
    if settings.algorithm == "metacog":
        return metacog(
            whole,
            cross_entropy,
            rate=settings.inner_lr,
            steps=settings.inner_steps,
            masked=lambda path: path.startswith("conv"),
            initial=settings.mask_initial,
            penalty=settings.mask_penalty,
            order=settings.order,
        )
    if settings.algorithm == "anil":
        head = mlp(widths=(), outputs=settings.way, initialise="pytorch")
        inner = (sgd(settings.inner_lr), settings.inner_steps)
        return anil(network(), head, cross_entropy, *inner, order=settings.order)
    return gradient_adapter(
        whole,
        cross_entropy,
        make_rule(settings),
        settings.inner_steps,
        adapted=_adapts,
        order=settings.order,
    )


def _adapts(path: str) -> bool:
    """Whether inner loops adapt a parameter: not the scale and offset of a normalisation."""
    return not path.startswith("norm")


def make_rule(settings: SimpleNamespace) -> Rule:
    """The inner rule, with what of it is meta-learned."""
    if settings.algorithm == "sparse_c_maml":
        return masked_sgd(settings.inner_lr)
    if settings.algorithm == "sparse_relu_c_maml":
        return rectified_sgd(settings.inner_lr)
    return sgd(settings.inner_lr, learn="leaf" if settings.learn_rates else None)


def make_optimiser(settings: SimpleNamespace) -> optax.GradientTransformation:
    """Adam; of the sparse algorithms, one for the weights and one for the masks."""
    if settings.algorithm not in SPARSE:
        return optax.adam(settings.learning_rate)
    rates = {"params": settings.learning_rate, "rule": settings.mask_learning_rate}
    return optax.partition(jax.tree.map(optax.adam, rates), {"params": "params", "rule": "rule"})


def make_learner(settings: SimpleNamespace) -> Online:
    """What learns the stream."""
    name = LEARNERS.get(settings.algorithm, "c_maml")
    own: dict[str, Any] = {}
    if settings.algorithm in BAYESIAN:
        own = {"rate": settings.learning_rate, "deviation": settings.deviation, "samples": settings.samples}
    elif name != "frozen":
        own = {"tx": make_optimiser(settings)}
    if settings.algorithm in C_MAML:
        own |= {"threshold": _or_none(settings.threshold), "modulation": _or_none(settings.modulation),
                "prolonged": settings.prolonged, "restart": settings.restart}  # fmt: skip
    return build_episodic(name, make_adapter(settings), cross_entropy, **own)


def _or_none(value: Any) -> Any:
    """What the flag says, None for infinity."""
    return None if isinstance(value, float) and math.isinf(value) else value


def at_point(settings: SimpleNamespace, values: Mapping[str, Any]) -> SimpleNamespace:
    """The settings with those of a point of the grid."""
    return SimpleNamespace(**vars(settings) | values)
