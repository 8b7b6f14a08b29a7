"""One abstract evaluation of a learner's step, so that any mismatch is reported in one sentence."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.outer.episode import adapt_and_predict
from jmeta.tree import require_same
from jmeta.types import Adapter, PyTree, Task


def check_step(
    adapter: Adapter, objective: Callable[..., tuple], meta: PyTree, model_state: PyTree, task: Task
) -> None:
    """Raise ValueError in one sentence if a task cannot be run; nothing is computed.

    Args:
      adapter: the adaptation algorithm.
      objective: `(meta, model_state, task, key) -> (loss, (model_state, metrics))`.
      meta, model_state: as `adapter.init` returned them.
      task: one episode; if its labels are concrete, their range is checked against the outputs.
    """
    key = jax.random.key(0)
    for name, batch in task._asdict().items():
        sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(batch)}
        if len(sizes) != 1:
            raise ValueError(
                f"learner: the {name} set has leading axes of {sorted(sizes)} examples; x, y and mask must "
                "have one row per example"
            )

    def outputs_of(meta: PyTree, state: PyTree, task: Task) -> PyTree:
        query = task.query
        return adapt_and_predict(
            adapter, meta, state, task.support, query.x, key, train=True, mask=query.mask
        )[0]

    outputs = _abstractly("the adapter cannot run the task", outputs_of, meta, model_state, task)
    _check_labels(outputs, task)
    check_objective(objective, meta, model_state, task)


def check_objective(objective: Callable[..., tuple], meta: PyTree, model_state: PyTree, task: PyTree) -> None:
    """Raise ValueError in one sentence if the loss of a task or stream, its metrics or the model state do not
    fit; nothing is computed."""
    key = jax.random.key(0)
    loss, (state, metrics) = _abstractly(
        "the loss or the metrics fail", objective, meta, model_state, task, key
    )
    if loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(f"learner: the loss is {loss.dtype}{list(loss.shape)}; expected one floating number")
    for name, value in metrics.items():
        if value.shape != ():
            raise ValueError(
                f"learner: the metric {name!r} has shape {value.shape}; expected one number a task"
            )
    require_same("learner: the model state", model_state, state)


def _abstractly(failure: str, function: Callable, *arguments: PyTree) -> PyTree:
    try:
        return jax.eval_shape(function, *arguments)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        reason = next(
            (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        raise ValueError(f"learner: {failure}: {reason}") from error


def _check_labels(outputs: PyTree, task: Task) -> None:
    """Raise ValueError for integer labels outside 0..way-1 of logits [example, way]."""
    for name, batch in task._asdict().items():
        y = batch.y
        if not (hasattr(y, "dtype") and jnp.issubdtype(y.dtype, jnp.integer)) or isinstance(
            y, jax.core.Tracer
        ):
            continue
        if getattr(outputs, "ndim", 0) != 2:
            continue
        labels = np.asarray(y)  # by numpy: under jit a method of a constant would be traced
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= outputs.shape[1]:
            raise ValueError(
                f"learner: {name} labels run from {low} to {high}, but the outputs {outputs.shape} have "
                f"{outputs.shape[1]} ways; expected labels in 0..{outputs.shape[1] - 1}"
            )
