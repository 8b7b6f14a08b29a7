"""Adapters by name, from plain settings: what a run's config.json says and `jmeta.load` builds again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jmeta import losses, metrics
from jmeta.adapters.comln import comln
from jmeta.adapters.gradient import anil, gradient_adapter
from jmeta.adapters.plain import plain
from jmeta.adapters.transfer import Schedule, from_scratch, pretrained
from jmeta.models import catalog as models
from jmeta.models.heads import cosine_head
from jmeta.rules import catalog as rules
from jmeta.rules.sgd import sgd
from jmeta.types import Adapter, Array, Batch, Key, Metrics, Model, PyTree, Rule

Loss = Callable[[PyTree, Batch], Array]


def loss(name: str, *, smoothing: float = 0.0) -> Loss:
    """A loss by name: "cross_entropy" (with label smoothing) or "mean_squared_error".

    Raises ValueError for another name.
    """
    if name == "cross_entropy":
        return functools.partial(losses.cross_entropy, smoothing=smoothing)
    if name == "mean_squared_error" and not smoothing:
        return losses.mean_squared_error
    raise ValueError(
        f"loss: {name!r} with smoothing {smoothing}; expected 'cross_entropy', or 'mean_squared_error' "
        "without smoothing"
    )


def metric(loss_name: str) -> Callable[[PyTree, Batch], Metrics]:
    """The metric reported beside a loss: accuracy of a classifier, squared error of a regression."""
    return metrics.accuracy if loss_name == "cross_entropy" else metrics.squared_error


def build(
    name: str, *, model: Mapping[str, Any], loss_name: str, smoothing: float, outputs: int, **settings: Any
) -> Adapter:
    """An adapter from its name and plain settings.

    Args:
      name: "comln"; "maml", "fomaml" and "anil", or "gradient" with any inner rule; "from_scratch";
        "pretrained"; "plain".
      model: the network's name and settings, for `jmeta.models.catalog.build`.
      loss_name, smoothing: the inner loss; smoothed in training only.
      outputs: number of ways, or of regression targets.
      **settings: of the adapter's factory; a gradient adapter's `inner_steps` and its `rule`, a name with
        settings for `jmeta.rules.catalog.build`, or `inner_lr` of gradient descent.

    Raises:
      ValueError: for an unknown name; TypeError for unknown settings.
    """
    if name not in _MAKERS:
        raise ValueError(f"adapter: {name!r}; expected one of {', '.join(_MAKERS)}")
    make = _MAKERS[name]
    if make is _comln:
        return make(model, outputs, label_smoothing=smoothing, **settings)
    plain = make(model, outputs, loss=loss(loss_name), **settings)
    if not smoothing:
        return plain
    smoothed = make(model, outputs, loss=loss(loss_name, smoothing=smoothing), **settings)
    return _by_phase(smoothed, plain)


def _by_phase(training: Adapter, testing: Adapter) -> Adapter:
    """An adapter that adapts as one of two, which differ in nothing else, in training and as the other at
    test."""

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key, *, train: bool
    ) -> tuple[PyTree, PyTree, Metrics]:
        return (training if train else testing).adapt(meta, state, support, key, train=train)

    return testing._replace(adapt=adapt)


def _comln(model: Mapping[str, Any], outputs: int, **settings: Any) -> Adapter:
    return comln(models.build(**model), outputs, **settings)


def _gradient(model: Mapping[str, Any], outputs: int, *, loss: Loss, **settings: Any) -> Adapter:
    rule, steps = _rule(settings), settings.pop("inner_steps")
    return gradient_adapter(_whole(model, outputs), loss, rule, steps, **settings)


def _anil(model: Mapping[str, Any], outputs: int, *, loss: Loss, **settings: Any) -> Adapter:
    rule, steps = _rule(settings), settings.pop("inner_steps")
    return anil(models.build(**model), _linear(outputs), loss, rule, steps, **settings)


def _from_scratch(model: Mapping[str, Any], outputs: int, *, loss: Loss, **schedule: Any) -> Adapter:
    return from_scratch(_whole(model, outputs), loss, schedule=Schedule(**schedule))


def _pretrained(
    model: Mapping[str, Any], outputs: int, *, loss: Loss, classes: int, cosine: bool, **schedule: Any
) -> Adapter:
    head = cosine_head if cosine else functools.partial(_linear, initialise="uniform")
    return pretrained(models.build(**model), head, classes, outputs, loss, schedule=Schedule(**schedule))


def _plain(model: Mapping[str, Any], outputs: int, *, loss: Loss) -> Adapter:
    """A network does not adapt by a loss."""
    return plain(models.build(**model, head=outputs))


_MAKERS: dict[str, Callable[..., Adapter]] = {
    "plain": _plain,
    "comln": _comln,
    **dict.fromkeys(("gradient", "maml", "fomaml"), _gradient),
    "anil": _anil,
    "from_scratch": _from_scratch,
    "pretrained": _pretrained,
}


def _rule(settings: dict[str, Any]) -> Rule:
    return rules.build(**settings.pop("rule")) if "rule" in settings else sgd(settings.pop("inner_lr"))


def _linear(outputs: int, **options: Any) -> Model:
    return models.build("mlp", widths=(), outputs=outputs, **options)


def _whole(model: Mapping[str, Any], outputs: int) -> Model:
    """The network with its classifier, for weights that differ from task to task."""
    if model["name"] == "mlp":
        return models.build(**model, outputs=outputs)
    return models.build(**model, head=outputs, weights="per_task")
