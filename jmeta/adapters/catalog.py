"""Adapters by name, from plain settings: what a run's config.json says and `jmeta.load` builds again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jmeta import losses, metrics
from jmeta.adapters.anml import anml
from jmeta.adapters.comln import comln
from jmeta.adapters.from_memory import from_memory
from jmeta.adapters.gradient import Loss, anil, gradient_adapter
from jmeta.adapters.oml import oml
from jmeta.adapters.plain import plain
from jmeta.adapters.transfer import Schedule, from_scratch, pretrained
from jmeta.memory import catalog as memories
from jmeta.models import catalog as models
from jmeta.models.heads import cosine_head
from jmeta.rules import catalog as rules
from jmeta.rules.sgd import sgd
from jmeta.types import Adapter, Array, Batch, Key, Metrics, Model, PyTree, Rule


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


def metric(loss_name: str, *, subtasks: int | None = None) -> Callable[[PyTree, Batch], Metrics]:
    """The metric reported beside a loss: accuracy of a classifier, squared error of a regression; where tasks
    have `subtasks`, accuracy by subtask too."""
    if loss_name != "cross_entropy":
        return metrics.squared_error
    if subtasks is None:
        return metrics.accuracy

    def measure(outputs: Array, query: Batch) -> Metrics:
        return metrics.accuracy(outputs, query) | metrics.accuracy_by_subtask(
            outputs, query, subtasks=subtasks
        )

    return measure


def build(
    name: str, *, model: Mapping[str, Any], loss_name: str, smoothing: float, outputs: int, **settings: Any
) -> Adapter:
    """An adapter from its name and plain settings.

    Args:
      name: "comln"; "maml", "fomaml" and "anil", or "gradient" with any inner rule; "from_scratch";
        "pretrained"; "plain"; over streams "oml", "anml" and "memory".
      model: the network's name and settings, for `jmeta.models.catalog.build`; of "oml" and "anml" their
        settings of it; of "memory" its name and settings, for `jmeta.memory.catalog.build`.
      loss_name, smoothing: the inner loss; smoothed in training only.
      outputs: number of ways, or of regression targets.
      **settings: of the adapter's factory; a gradient adapter's `inner_steps` and its `rule`, a name with
        settings for `jmeta.rules.catalog.build`, or `inner_lr` of gradient descent; the `rule` of "oml"
        and "anml", and the `test_rule` where it is another at test.

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


def _one_by_one(
    make: Callable[..., Adapter], model: Mapping[str, Any], outputs: int, *, loss: Loss,
    rule: Mapping[str, Any], test_rule: Mapping[str, Any] | None = None, order: str,
) -> Adapter:  # fmt: skip
    """OML or ANML; at test with another rule, through which nothing is differentiated."""
    trained = make(outputs, rules.build(**rule), loss=loss, order=order, **model)
    if test_rule is None:
        return trained
    return _by_phase(trained, make(outputs, rules.build(**test_rule), loss=loss, order="first", **model))


def _memory(model: Mapping[str, Any], outputs: int, *, loss: Loss, **settings: Any) -> Adapter:
    """A memory adapts without a loss."""
    return from_memory(memories.build(**model, way=outputs), readout=memories.logits, **settings)


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
    "oml": functools.partial(_one_by_one, oml),
    "anml": functools.partial(_one_by_one, anml),
    "memory": _memory,
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
