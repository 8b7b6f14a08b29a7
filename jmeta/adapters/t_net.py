"""T-nets and MT-nets: adaptation in a learned metric, and in a learned random subspace.

Lee & Choi, Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace, ICML 2018.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jmeta.adapters.named import by_rule
from jmeta.inner.gradient import Order, Remat
from jmeta.losses import is_labels, present_ways
from jmeta.models.norm_policy import Norm, is_no_norm
from jmeta.models.transformed import transformed
from jmeta.rules.sgd import sgd
from jmeta.rules.subspace_sgd import subspace_sgd
from jmeta.types import Adapter, Array, Batch, BatchLoss, Key, Metrics, Model, PyTree, Rule


def t_net(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.05,
    inner_steps: int = 5,
    test_inner_steps: int | None = 10,
    test_loss: BatchLoss | None = None,
    order: Order = "mixed",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt kernels and biases, each layer followed by a learned transformation that does not adapt: T-net.

    The transformations start at the identity (`jmeta.transformed`). They and normalization layers learn in
    the outer loop only. The arguments are those of `jmeta.maml`.
    """
    steps: dict[str, Any] = {"inner_steps": inner_steps, "test_inner_steps": test_inner_steps}
    steps |= {"test_loss": test_loss, "order": order, "remat": remat, "norm": norm}
    return _on_layers(model, loss, sgd(inner_lr), **steps)


def mt_net(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.05,
    inner_steps: int = 5,
    mask_per: Literal["unit", "weight"] = "unit",
    temperature: float = 1.0,
    deterministic_test: bool = False,
    test_inner_steps: int | None = 10,
    test_loss: BatchLoss | None = None,
    order: Order = "mixed",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt randomly chosen units of a T-net, whose odds are learned: MT-net.

    Args:
      model, loss, inner_lr, inner_steps, test_inner_steps, test_loss, order, remat, norm: those of
        `jmeta.maml`.
      mask_per, temperature: see `jmeta.subspace_sgd`.
      deterministic_test: at test adapt the units whose odds are even or better; otherwise draw there too.
    """
    rule = subspace_sgd(inner_lr, per=mask_per, temperature=temperature)
    steps: dict[str, Any] = {"inner_steps": inner_steps, "test_inner_steps": test_inner_steps}
    steps |= {"test_loss": test_loss, "order": order, "remat": remat, "norm": norm}
    adapter = _on_layers(model, loss, rule, draws_at_test=not deterministic_test, **steps)
    return adapter._replace(learned=_odds) if mask_per == "unit" else adapter


def _odds(meta: PyTree) -> Metrics:
    return {f"adapted_share/{layer}": jax.nn.sigmoid(s).mean() for layer, s in meta["rule"].items()}


def _on_layers(
    model: Model, loss: BatchLoss, rule: Rule, *, draws_at_test: bool = False, **options: Any
) -> Adapter:
    """Adapt the layers of a transformed network by `rule`, and not their transformations."""
    adapter = by_rule(transformed(model), loss, rule, adapted=_of_a_layer, **options)
    return _without_absent_ways(adapter._replace(draws_at_test=draws_at_test))


def _of_a_layer(path: str) -> bool:
    return is_no_norm(path) and path.split("/")[-1] != "transform"


def _without_absent_ways(adapter: Adapter) -> Adapter:
    """Take ways without a real support example out of the inputs of the last layer's transformation, which
    mixes the ways; `adapter` masks them among its outputs."""

    def adapt(meta: PyTree, state: PyTree, support: Batch, key: Key | None, *, train: bool) -> Any:
        present = None
        last = meta["params"].get("head")
        if last is not None and support.mask is not None and is_labels(support.y, 1):
            present = present_ways(support.y, last["transform"].shape[0], support.mask)
        return adapter.adapt(_restricted(meta, present), state, support, key, train=train)

    def predict(meta: PyTree, fast: Any, *rest: Any, **options: Any) -> tuple[PyTree, PyTree]:
        return adapter.predict(_restricted(meta, fast.present), fast, *rest, **options)

    @functools.cache
    def with_norm(norm: str) -> Adapter:
        assert adapter.with_norm is not None
        other = adapter.with_norm(norm)
        return _without_absent_ways(other._replace(draws_at_test=adapter.draws_at_test))

    return adapter._replace(adapt=adapt, predict=predict, with_norm=with_norm)


def _restricted(meta: PyTree, present: Array | None) -> PyTree:
    params = meta["params"]
    if present is None or "head" not in params:
        return meta
    transform = params["head"]["transform"]  # [own output, output]
    transform = jnp.where(jnp.broadcast_to(present[:, None], transform.shape), transform, 0)
    return {**meta, "params": {**params, "head": {**params["head"], "transform": transform}}}
