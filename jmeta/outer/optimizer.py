"""The outer optimizers that the papers name, from plain settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import optax

from jmeta.types import PyTree


def step_schedule(learning_rate: float, drops: Sequence[tuple[int, float]] = ()) -> optax.Schedule:
    """Make a piecewise constant rate: `learning_rate`, and from step s on the rate r of each drop (s, r).

    Lee et al. 2019, used by COMLN (App. E.5): 0.1, then 0.006, 0.0012, 0.00024 from steps 20,000, 40,000 and
    50,000. Raises ValueError if the steps do not increase.
    """
    steps = [step for step, _ in drops]
    if steps != sorted(set(steps)) or any(step <= 0 for step in steps):
        raise ValueError(f"step_schedule: drops at steps {steps}; expected increasing positive steps")
    rates = [learning_rate, *(rate for _, rate in drops)]
    return optax.join_schedules([optax.constant_schedule(rate) for rate in rates], steps)


def optimizer(
    name: Literal["sgd", "adam"] = "sgd",
    learning_rate: float = 0.1,
    *,
    drops: Sequence[tuple[int, float]] = (),
    cosine_steps: int | None = None,
    linear_steps: int | None = None,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
) -> optax.GradientTransformation:
    """Make an outer optimizer: SGD with Nesterov momentum (COMLN, App. E.5) or Adam (MAML).

    Args:
      name: "sgd" or "adam".
      learning_rate, drops: see `step_schedule`.
      cosine_steps: instead of drops, the number of steps in which the rate falls to 0 along half a cosine
        (Loshchilov & Hutter, ICLR 2017).
      linear_steps: or the number of steps in which it falls to 0 in a straight line (Reptile, 2018).
      momentum: of SGD's Nesterov acceleration; 0 for plain SGD.
      weight_decay: added to the gradient of every array, but not of scalars such as COMLN's log T.
      clip_norm: largest global norm of the gradient, None for no limit.
      clip_value: largest absolute value of an entry of the gradient (Finn et al. 2017), None for no limit.

    Raises:
      ValueError: for an unknown name, and for more than one schedule.
    """
    chosen = {"drops": drops or None, "cosine_steps": cosine_steps, "linear_steps": linear_steps}
    chosen = {schedule: value for schedule, value in chosen.items() if value is not None}
    if len(chosen) > 1:
        words = " and ".join(f"{schedule}={value}" for schedule, value in chosen.items())
        raise ValueError(f"optimizer: {words}; choose one schedule")
    if cosine_steps is not None:
        schedule = optax.cosine_decay_schedule(learning_rate, cosine_steps)
    elif linear_steps is not None:
        schedule = optax.linear_schedule(learning_rate, 0.0, linear_steps)
    else:
        schedule = step_schedule(learning_rate, drops)
    if name == "sgd":
        descent = optax.sgd(schedule, momentum=momentum or None, nesterov=bool(momentum))
    elif name == "adam":
        descent = optax.adam(schedule)
    else:
        raise ValueError(f"optimizer: name={name!r}; expected 'sgd' or 'adam'")
    parts = [] if clip_value is None else [optax.clip(clip_value)]
    parts += [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=_arrays))
    return optax.chain(*parts, descent)


def _arrays(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim > 0, params)
