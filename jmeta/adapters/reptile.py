"""Reptile: the initialization moves towards the weights that training on a task ends with.

Nichol, Achiam & Schulman, On First-Order Meta-Learning Algorithms, 2018.

Deviations. With `shared_moments` all tasks of a meta-batch begin with the same moments, and their mean is
kept; in the released code each task begins with those of the one before. In its evaluation that is not
"transductive" each query image is normalized together with the support set; here, under norm="support", by
the support set alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jmeta.adapters.by_minibatches import by_minibatches, gradient_at
from jmeta.models.norm_policy import Norm
from jmeta.rules.optax_bridge import from_optax
from jmeta.rules.sgd import sgd
from jmeta.types import Adapter, BatchLoss, Key, Model, PyTree, Task


def reptile(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.001,
    inner_steps: int = 5,
    adapt_batch: int = 10,
    test_inner_steps: int | None = 50,
    test_adapt_batch: int | None = 5,
    inner_optimizer: Literal["adam", "sgd"] = "adam",
    shared_moments: bool = False,
    test_loss: BatchLoss | None = None,
    norm: Norm = "batch",
) -> Adapter:
    """Train the whole network on minibatches of the support set, by Adam without momentum or by SGD.

    `jmeta.learner` needs `task_grad=jmeta.reptile_gradient()`, and plain SGD, whose rate is the paper's
    epsilon. The query set measures and teaches nothing.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      inner_lr, inner_steps, adapt_batch: rate and number of the inner steps, and examples of a step.
      test_inner_steps, test_adapt_batch: those of evaluation, as in training if None.
      inner_optimizer: "adam", with beta1 = 0, or "sgd".
      shared_moments: let Adam's second moment and step count run on over all training tasks, as in the
        released code; otherwise each task begins anew.
      test_loss: inner loss at evaluation, `loss` if None.
      norm: "batch" (the paper's "transductive" evaluation) or "support", see `jmeta.models.norm_policy`.

    Raises:
      ValueError: for an unknown optimizer or norm, or numbers of steps or examples below 1.
    """
    if inner_optimizer not in ("adam", "sgd"):
        raise ValueError(f"reptile: inner_optimizer={inner_optimizer!r}; expected 'adam' or 'sgd'")
    adam = inner_optimizer == "adam"
    rule = from_optax(optax.adam(inner_lr, b1=0.0)) if adam else sgd(inner_lr)
    test: dict[str, Any] = {"test_steps": test_inner_steps, "test_batch": test_adapt_batch}
    test |= {"test_loss": test_loss, "norm": norm, "keep_carry": shared_moments}
    return by_minibatches(model, loss, rule, inner_steps, batch=adapt_batch, **test)


def reptile_gradient() -> Callable[..., Any]:
    """Return the `task_grad` of Reptile for `jmeta.learner`: the initialization minus the trained weights."""

    def task_grad(
        objective: Callable[..., Any], meta: PyTree, state: PyTree, task: Task, key: Key
    ) -> tuple[Any, PyTree]:
        value, outcome = objective(meta, state, task, key)
        way_back = jax.tree.map(jnp.subtract, meta["params"], outcome.fast.params)
        return (value, outcome), gradient_at(meta, way_back)

    return task_grad
