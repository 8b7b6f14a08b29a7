"""MAML and its relatives: settings of `gradient_adapter` that have a name."""

from __future__ import annotations

from typing import Any

from jmeta.adapters.gradient import gradient_adapter
from jmeta.inner.gradient import Order, Remat
from jmeta.models.norm_policy import Norm
from jmeta.rules.sgd import sgd
from jmeta.types import Adapter, BatchLoss, Model, Rule


def by_rule(
    model: Model,
    loss: BatchLoss,
    rule: Rule,
    *,
    inner_steps: int = 5,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    order: Order = "mixed",
    remat: Remat = "step",
    norm: Norm = "batch",
) -> Adapter:
    """Adapt the whole network by any inner rule: `gradient_adapter` in the words of the entry points."""
    steps: dict[str, Any] = {"test_steps": test_inner_steps, "test_loss": test_loss}
    return gradient_adapter(model, loss, rule, inner_steps, **steps, order=order, remat=remat, norm=norm)


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
