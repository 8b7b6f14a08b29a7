"""MAML and its relatives: settings of `gradient_adapter` that have a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.adapters.gradient import gradient_adapter
from jmeta.inner.gradient import Order, Remat
from jmeta.models.norm_policy import Norm, is_no_norm
from jmeta.rules.meta_curvature import Mode, meta_curvature
from jmeta.rules.proximal_sgd import proximal_sgd
from jmeta.rules.sgd import sgd
from jmeta.tree import Selection
from jmeta.types import Adapter, BatchLoss, Metrics, Model, PyTree, Rule


def by_rule(
    model: Model,
    loss: BatchLoss,
    rule: Rule,
    *,
    inner_steps: int = 5,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    adapted: Selection | None = None,
    order: Order = "mixed",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt a network, or the `adapted` part of it, by any inner rule: `gradient_adapter` in the words of the
    entry points."""
    options: dict[str, Any] = {"test_steps": test_inner_steps, "test_loss": test_loss, "adapted": adapted}
    return gradient_adapter(model, loss, rule, inner_steps, **options, order=order, remat=remat, norm=norm)


def maml(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.01,
    inner_steps: int = 5,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    order: Order = "mixed",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt the whole network by gradient descent at one fixed rate: MAML (Finn et al., ICML 2017).

        theta_(k+1) = theta_k - inner_lr * grad L_support(theta_k),  k = 0 .. inner_steps - 1

    Args:
      model: the network, with the task's ways as outputs.
      loss: `(outputs, Batch) -> scalar`, the inner loss.
      inner_lr, inner_steps: rate and number of the inner steps in training.
      test_inner_steps: number of inner steps at evaluation, `inner_steps` if None.
      test_loss, norm: see `jmeta.gradient_adapter`.
      order, remat: see `jmeta.inner_loop`; order="first" is first-order MAML (FOMAML).
    """
    return by_rule(
        model,
        loss,
        sgd(inner_lr),
        inner_steps=inner_steps,
        test_inner_steps=test_inner_steps,
        test_loss=test_loss,
        order=order,
        remat=remat,
        norm=norm,
    )


def boil(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.5,
    inner_steps: int = 1,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    order: Order = "mixed",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt all but the last layer by gradient descent: BOIL (Oh et al., ICLR 2021).

    The classifier, the layer "head", learns in the outer loop only; batch normalization's scale and offset
    adapt too. The authors take one step at rate 0.5 (Conv-4) or 0.3 (ResNet-12). The arguments are those of
    `maml`.
    """
    rule, body = sgd(inner_lr), _not_of_the_last_layer
    options = _options(inner_steps, test_inner_steps, test_loss, order, remat, norm)
    return by_rule(model, loss, rule, adapted=body, **options)


def meta_sgd(
    model: Model,
    loss: BatchLoss,
    *,
    lowest_rate: float = 0.005,
    highest_rate: float = 0.1,
    inner_steps: int = 1,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    order: Order = "mixed",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt the whole network with a learned rate for each weight: Meta-SGD (Li et al. 2017).

    The rates start uniformly in [lowest_rate, highest_rate), are learned with the initialization and may turn
    negative; all steps share them. The other arguments are those of `maml`.
    """
    rule = sgd((lowest_rate, highest_rate), learn="element")
    options = _options(inner_steps, test_inner_steps, test_loss, order, remat, norm)
    return by_rule(model, loss, rule, **options)._replace(learned=_rates)


def maml_with_curvature(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.05,
    inner_steps: int = 5,
    modes: str | Sequence[Mode] = "filter,in,out",
    step_curvature: bool = False,
    largest_curvature: int | None = None,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    order: Order = "mixed",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt kernels and biases by steps in a learned geometry: Meta-curvature (Park & Oliva, NeurIPS 2019).

    Batch normalization's scale and offset learn in the outer loop only, as in the authors' code.

    Args:
      model, loss, inner_lr, inner_steps, test_inner_steps, test_loss, order, remat, norm: those of `maml`.
      modes: the axes of a gradient that have a matrix, see `jmeta.meta_curvature`: a list, or one text
        with commas.
      step_curvature: learn matrices for each inner step, rather than one set.
      largest_curvature: longest axis that has a whole matrix, and not a diagonal one; None for no limit.
    """
    wanted: Any = modes.split(",") if isinstance(modes, str) else modes
    own = inner_steps if step_curvature else None
    rule = meta_curvature(inner_lr, modes=wanted, steps=own, largest=largest_curvature)
    options = _options(inner_steps, test_inner_steps, test_loss, order, remat, norm)
    return by_rule(model, loss, rule, adapted=is_no_norm, **options)


def shrinkage(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.05,
    inner_steps: int = 5,
    log_variance: float = 0.0,
    implicit_step: bool = True,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    order: Order = "mixed",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt the whole network, each layer held near its start by a prior of learned variance: sigma-MAML.

    Chen et al., NeurIPS 2020. The other arguments are those of `maml`; `log_variance` and `implicit_step` are
    described in `jmeta.proximal_sgd`.
    """
    rule = proximal_sgd(inner_lr, log_variance=log_variance, implicit_step=implicit_step)
    options = _options(inner_steps, test_inner_steps, test_loss, order, remat, norm)
    adapter = by_rule(model, loss, rule, **options)
    return adapter._replace(learned=deviations)


def _rates(meta: PyTree) -> Metrics:
    rates = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(meta["rule"])])
    return {"mean_rate": rates.mean(), "negative_rates": (rates < 0).mean()}


def deviations(meta: PyTree) -> Metrics:
    """Tell the deviations of the priors that `shrinkage` learned, by module."""
    logs = meta["rule"]["log_variance"]
    return {f"deviation/{module}": jnp.exp(value / 2) for module, value in logs.items()}


def _options(
    inner_steps: int,
    test_inner_steps: int | None,
    test_loss: BatchLoss | None,
    order: Order,
    remat: Remat,
    norm: Norm,
) -> dict[str, Any]:
    """Name the options that all these algorithms hand on to `by_rule`."""
    counts = {"inner_steps": inner_steps, "test_inner_steps": test_inner_steps, "test_loss": test_loss}
    return {**counts, "order": order, "remat": remat, "norm": norm}


def _not_of_the_last_layer(path: str) -> bool:
    return path.split("/")[0] != "head"
