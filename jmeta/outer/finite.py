"""Numbers that are not finite end a run, with one line that says where and what to go back to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.outer.checkpoint import Checkpoints
from jmeta.types import Array, LearnerState


class NonFiniteError(ArithmeticError):
    """A loss, a gradient or a parameter is not finite, or a flow did not finish; the message is one line."""


def all_finite(state: LearnerState) -> dict[str, Array]:
    """Of each floating leaf of the learned state, by path, whether all of it is finite."""
    learned = {"meta": state.meta, "model_state": state.model_state}
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.isfinite(leaf).all()
        for path, leaf in jax.tree_util.tree_leaves_with_path(learned)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }


def check_steps(
    measured: Mapping[str, np.ndarray],
    finite: Mapping[str, np.ndarray],
    start: int,
    count: int,
    checkpoints: Checkpoints | None,
    *,
    allow: bool = False,
) -> None:
    """Raise NonFiniteError for the first of a dispatch's steps that went wrong.

    Args:
      measured: metrics [step of the dispatch], with [task] or [task, seed] after it; checked are those named
        `..._ok`, which must be true, and the loss and the gradient norm unless `allow`.
      finite: what `all_finite` says of the state after the dispatch.
      start, count: the steps taken before and in the dispatch.
      checkpoints: where the run could go back to.
    """
    first: tuple[int, str, int] | None = None  # (step of the dispatch, quantity, task)
    # Causes before effects: of what went wrong in the same step, the first is named.
    numbers = () if allow else ("loss", "gradient_norm")
    for name in [*(name for name in measured if name.endswith("_ok")), *numbers]:
        if name in measured:
            values = measured[name][:count].reshape(count, -1)
            wrong = np.argwhere(~values.astype(bool) if name.endswith("_ok") else ~np.isfinite(values))
            if len(wrong) and (first is None or wrong[0][0] < first[0]):
                first = int(wrong[0][0]), name, int(wrong[0][1])
    if first is not None:
        index, name, task = first
        shape = measured[name][index].shape
        what = _place(name, shape, task)
        value = measured[name][index].reshape(-1)[task]
        if "horizon" in measured:
            horizons = np.broadcast_to(measured["horizon"][index], shape or measured["horizon"][index].shape)
            what += f" (horizon {horizons.reshape(-1)[task]:.6g})"
        raise NonFiniteError(f"step {start + index + 1}: {what} is {value}; {_advice(checkpoints)}")
    for name, fine in finite.items():
        if not fine:
            raise NonFiniteError(f"step {start + count}: {name} is not finite; {_advice(checkpoints)}")


def check_validation(metrics: Mapping[str, Any], step: int, checkpoints: Checkpoints | None) -> None:
    """Raise NonFiniteError where a mean over validation tasks (of each seed, where there are several) is not
    finite, or an `..._ok` is not 1."""
    for name, value in metrics.items():
        if not np.isfinite(value).all() or (name.endswith("_ok") and np.min(value) < 1):
            raise NonFiniteError(f"step {step}: {name} of the validation is {value}; {_advice(checkpoints)}")


def _place(name: str, shape: tuple[int, ...], index: int) -> str:
    """Which of a metric's values [task], [task, seed] or [] (of the gradient norm: [seed]) `index` is."""
    axes = ("seed",) if name == "gradient_norm" else ("task", "seed")
    found = [f"{axis} {where}" for axis, where in zip(axes, np.unravel_index(index, shape))]
    return name + (f" of {', '.join(found)}" if found else "")


def _advice(checkpoints: Checkpoints | None) -> str:
    step = None if checkpoints is None else checkpoints.latest_step()
    if step is None:
        return "there is no checkpoint to go back to"
    return f"go back to the checkpoint of step {step}"
