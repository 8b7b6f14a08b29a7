"""LEAP: initializations from which training follows short paths on the loss surface.

Flennerhag et al., Transferring Knowledge across Learning Processes, ICLR 2019, equation 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jmeta.adapters.by_minibatches import by_minibatches, gradient_at
from jmeta.models.norm_policy import Norm
from jmeta.rules.sgd import sgd
from jmeta.types import Adapter, Array, BatchLoss, Key, Model, PyTree, Rule, Task

Metric = Literal["length", "energy"]


def leap(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 100,
    adapt_batch: int = 20,
    test_inner_steps: int | None = None,
    test_adapt_batch: int | None = None,
    path_metric: Metric = "length",
    path_loss: bool = True,
    stabilizer: bool = True,
    last_segment: bool = True,
    test_loss: BatchLoss | None = None,
    norm: Norm = "batch",
) -> Adapter:
    """Train the whole network by SGD on minibatches of the support set, and measure the path that it takes.

    `jmeta.learner` needs `task_grad=jmeta.leap_gradient()`. The query set measures and teaches nothing.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      inner_lr, inner_steps, adapt_batch: rate and number of the inner steps, and examples of a step.
      test_inner_steps, test_adapt_batch: those of evaluation, as in training if None.
      path_metric, path_loss, stabilizer, last_segment: see `along_path`.
      test_loss: inner loss at evaluation, `loss` if None.
      norm: "batch" or "support", see `jmeta.models.norm_policy`.

    Raises:
      ValueError: for an unknown metric or norm, or numbers of steps or examples below 1.
    """
    rule = sgd(inner_lr)
    options: dict[str, Any] = {"metric": path_metric, "with_loss": path_loss, "stabilizer": stabilizer}
    measured = along_path(rule, inner_steps if last_segment else None, **options)
    test: dict[str, Any] = {"test_steps": test_inner_steps or inner_steps, "test_batch": test_adapt_batch}
    test |= {"test_rule": rule, "test_loss": test_loss, "norm": norm}
    return by_minibatches(model, loss, measured, inner_steps + last_segment, batch=adapt_batch, **test)


def along_path(
    rule: Rule,
    steps: int | None,
    *,
    metric: Metric = "length",
    with_loss: bool = True,
    stabilizer: bool = True,
) -> Rule:
    """Wrap `rule` so that its carry adds up the gradient of the length of the path that it takes.

    A segment from weights w with loss f and gradient g to w' with loss f' adds ((w - w') - (f' - f) g) / n,
    with n = sqrt((f' - f)^2 + |w' - w|^2) over all parameters; ends, differences and n are constants. It is
    added when the rule sees w', so the last step's end is seen by a further step only.

    Args:
      rule: the rule.
      steps: number of steps after which one more measures the last end and updates nothing; None for none.
      metric: "length", or "energy", which does not divide by n (the factor 2 is left out, as in the paper).
      with_loss: measure the path on the loss surface; otherwise in weight space. With metric="energy" that is
        Reptile.
      stabilizer: take -|f' - f| for f' - f, so that a loss that rises does not turn the gradient.

    Returns:
      A `Rule` with carry {"rule", "params", "loss", "grads", "gradient"}, the last of which is the sum.

    Raises:
      ValueError: for an unknown metric.
    """
    if metric not in ("length", "energy"):
        raise ValueError(f"along_path: metric={metric!r}; expected 'length' or 'energy'")

    def start(hyper: PyTree, params: PyTree, key: Key | None) -> PyTree:
        zeros = jax.tree.map(jnp.zeros_like, params)
        dtype = jnp.promote_types(jnp.result_type(*jax.tree.leaves(params)), jnp.float32)
        carry = {"params": params, "loss": jnp.zeros((), dtype), "grads": zeros, "gradient": zeros}
        return {"rule": rule.start(hyper, params, key), **carry}

    def segment(carry: PyTree, params: PyTree, loss: Array) -> PyTree:
        """Compute the gradient of the segment that ends in `params`."""
        back = jax.tree.map(jnp.subtract, carry["params"], params)
        rise = loss - carry["loss"] if with_loss else jnp.zeros_like(loss)
        slope = -jnp.abs(rise) if stabilizer else rise
        gradient = jax.tree.map(lambda b, g: b - slope.astype(g.dtype) * g, back, carry["grads"])
        if metric == "energy":
            return gradient
        size = jnp.sqrt(jnp.square(rise) + optax.tree.norm(back, squared=True).astype(rise.dtype))
        share = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
        return jax.tree.map(lambda g: share.astype(g.dtype) * g, gradient)

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        loss = loss.astype(carry["loss"].dtype)
        more = segment(carry, params, loss)
        total = jax.tree.map(lambda sum, g: jnp.where(step > 0, sum + g, sum), carry["gradient"], more)
        updates, own = rule.update(hyper, grads, carry["rule"], params, loss=loss, step=step)
        if steps is not None:
            updates = jax.tree.map(lambda u: jnp.where(step < steps, u, jnp.zeros_like(u)), updates)
        return updates, {"rule": own, "params": params, "loss": loss, "grads": grads, "gradient": total}

    return Rule(rule.init, start, update)


def leap_gradient() -> Callable[..., Any]:
    """Return the `task_grad` of LEAP for `jmeta.learner`: the gradient of the length of a task's path."""

    def task_grad(
        objective: Callable[..., Any], meta: PyTree, state: PyTree, task: Task, key: Key
    ) -> tuple[Any, PyTree]:
        value, outcome = objective(meta, state, task, key)
        return (value, outcome), gradient_at(meta, outcome.fast.carry["gradient"])

    return task_grad
