"""Non-finite numbers end a run, with one line that names the step, the quantity and a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.outer.checkpoint import Checkpoints
from jmeta.types import Array, LearnerState


class NonFiniteError(ArithmeticError):
    """Raised, with a one-line message, if a loss, a gradient or a parameter is not finite, or if a flow did
    not finish."""


def all_finite(state: LearnerState) -> dict[str, Array]:
    """Test every floating leaf of the learned state: {path: true if all of the leaf is finite}."""
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
    """Raise NonFiniteError for the first step of a dispatch that went wrong.

    Args:
      measured: metrics [step of the dispatch], with [task] or [task, seed] after it; those named `..._ok`
        must be true, and unless `allow` the loss and the gradient norm must be finite.
      finite: the result of `all_finite` for the state after the dispatch.
      start, count: the steps taken before and in the dispatch.
      checkpoints: the checkpoints that the run could go back to.
    """
    first: tuple[int, str, int] | None = None  # (step of the dispatch, quantity, task)
    # Causes before effects: if several quantities go wrong in the same step, the first is named.
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
        place = _place(name, shape, task)
        value = measured[name][index].reshape(-1)[task]
        if "horizon" in measured:
            horizons = np.broadcast_to(measured["horizon"][index], shape or measured["horizon"][index].shape)
            place += f" (horizon {horizons.reshape(-1)[task]:.6g})"
        raise NonFiniteError(f"step {start + index + 1}: {place} is {value}; {_advice(checkpoints)}")
    for name, is_finite in finite.items():
        if not is_finite:
            raise NonFiniteError(f"step {start + count}: {name} is not finite; {_advice(checkpoints)}")


def check_validation(metrics: Mapping[str, Any], step: int, checkpoints: Checkpoints | None) -> None:
    """Raise NonFiniteError if a mean over validation tasks (of any seed, if there are several) is not finite,
    or if an `..._ok` is not 1."""
    for name, value in metrics.items():
        if not np.isfinite(value).all() or (name.endswith("_ok") and np.min(value) < 1):
            raise NonFiniteError(f"step {step}: {name} of the validation is {value}; {_advice(checkpoints)}")


def _place(name: str, shape: tuple[int, ...], index: int) -> str:
    """Name the value `index` of a metric [task], [task, seed] or [] (of the gradient norm: [seed])."""
    axes = ("seed",) if name == "gradient_norm" else ("task", "seed")
    places = [f"{axis} {number}" for axis, number in zip(axes, np.unravel_index(index, shape))]
    return name + (f" of {', '.join(places)}" if places else "")


def _advice(checkpoints: Checkpoints | None) -> str:
    step = None if checkpoints is None else checkpoints.latest_step()
    if step is None:
        return "there is no checkpoint to go back to"
    return f"go back to the checkpoint of step {step}"
