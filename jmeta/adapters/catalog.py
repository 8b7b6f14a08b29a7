"""Adapters by name, from plain settings: what a run's config.json says and `jmeta.load` builds again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jmeta import losses, metrics
from jmeta.adapters.comln import comln
from jmeta.adapters.gradient import gradient_adapter
from jmeta.models import catalog as models
from jmeta.rules.sgd import sgd
from jmeta.types import Adapter, Array, Batch, Metrics, Model, PyTree


def loss(name: str, *, smoothing: float = 0.0) -> Callable[[PyTree, Batch], Array]:
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
      name: "comln", "maml", "fomaml" or "anil".
      model: the network's name and settings, for `jmeta.models.catalog.build`.
      loss_name, smoothing: the inner loss.
      outputs: number of ways, or of regression targets.
      **settings: of the adapter's factory; a gradient adapter's `inner_lr` and `inner_steps` too.

    Raises:
      ValueError: for an unknown name; TypeError for unknown settings.
    """
    if name == "comln":
        return comln(models.build(**model), outputs, label_smoothing=smoothing, **settings)
    if name not in ("maml", "fomaml", "anil"):
        raise ValueError(f"adapter: {name!r}; expected 'comln', 'maml', 'fomaml' or 'anil'")
    rule, steps = sgd(settings.pop("inner_lr")), settings.pop("inner_steps")
    inner_loss = loss(loss_name, smoothing=smoothing)
    network: Model | tuple[Model, Model]
    if name == "anil":
        network = (models.build(**model), models.build("mlp", widths=(), outputs=outputs))
    elif model["name"] == "mlp":
        network = models.build(**model, outputs=outputs)
    else:
        network = models.build(**model, head=outputs, weights="per_task")
    return gradient_adapter(network, inner_loss, rule, steps, **settings)
