"""The four policies of batch normalization, one of which every reported number names.

| policy | support set and query set are normalized with | running averages |
|---|---|---|
| `batch` | the statistics of the batch at hand (MAML; transductive: a query sees the others) | not used |
| `support` | the support set's statistics, in both | not used |
| `running` | batch statistics while training, the running ones at evaluation | one for all steps |
| `per_step` | as `running` | one for each inner step (MAML++) |

Under `batch` the outputs for a query depend on the queries that come with it: alone it is normalized with its
own statistics, which are hardly any. `support` and `running` treat every query alike.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from jmeta.types import Array, Key, Model, PyTree

Norm = Literal["batch", "support", "running", "per_step"]

_LARGE = 1024.0  # far above the statistics of usual activations, so that rounding does not blur the momentum


def is_average(leaf: Array) -> bool:
    """Return True for a running average (a floating leaf of a model state), False for a counter or a key."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def is_no_norm(path: str) -> bool:
    """Return True unless the parameter at `path` ("norm_0/scale") is of a normalization layer.

    The layers are known by their names; all of `jmeta.models` have "norm" in theirs.
    """
    return "norm" not in path.lower()


def check_norm(norm: str) -> None:
    """Raise ValueError if `norm` is none of the four policies."""
    if norm not in get_args(Norm):
        raise ValueError(f"norm is {norm!r}; choose one of {', '.join(get_args(Norm))}")


def check_other_norm(trained: Norm, norm: Norm) -> None:
    """Raise ValueError if a network trained under one policy has no statistics for another, `norm`."""
    check_norm(norm)
    if norm != trained and norm not in ("batch", "support"):
        raise ValueError(
            f"norm={norm!r}: this network was trained under norm={trained!r} and keeps no averages for it; "
            "expected 'batch' or 'support'"
        )


def apply_with_norm(
    model: Model,
    norm: Norm,
    params: PyTree,
    state: PyTree,
    x: PyTree,
    *,
    train: bool,
    key: Key | None = None,
    mask: Array | None = None,
) -> tuple[PyTree, PyTree]:
    """Apply `model` to inputs `x` [example, ...] under a normalization policy: (outputs, state).

    `state` is the model's; under `support` it is the result of `support_state`, under `per_step` the entry of
    one step (`step_state`). The returned state differs from it only in training under `running` and
    `per_step`.
    """
    batch_statistics = norm == "batch" or (norm in ("running", "per_step") and train)
    outputs, updated = model.apply(params, state, x, train=batch_statistics, key=key, mask=mask)
    return outputs, updated if batch_statistics and norm != "batch" else state


def support_state(
    model: Model,
    params: PyTree,
    state: PyTree,
    x: PyTree,
    *,
    key: Key | None = None,
    mask: Array | None = None,
) -> PyTree:
    """Make a model state whose running statistics are the batch statistics of `x` [example, ...].

    A training pass turns a running average s into m s + (1 - m) batch. Two passes, from s = 0 and from a
    large s, give m, whatever it is in this network, and with it the batch's share; the compiler merges all
    that they have in common, which is everything but the averages. Leaves that are not floating, and those
    that a pass leaves alone (m = 1), keep their value. Differentiable in `params` and `x` as far as the
    network's running averages are: those of flax linen and of `jmeta.models` are, those of flax nnx stop the
    gradient.
    """

    def averages_from(start: float) -> PyTree:
        filled = jax.tree.map(lambda leaf: jnp.full_like(leaf, start) if is_average(leaf) else leaf, state)
        return model.apply(params, filled, x, train=True, key=key, mask=mask)[1]

    def batch_statistic(old: Array, low: Array, high: Array) -> Array:
        if not is_average(old):
            return old
        momentum = lax.stop_gradient(high - low) / _LARGE
        untouched = momentum == 1
        return jnp.where(untouched, old, low / jnp.where(untouched, 1, 1 - momentum))

    return jax.tree.map(batch_statistic, state, averages_from(0.0), averages_from(_LARGE))


def stack_state(state: PyTree, steps: int) -> PyTree:
    """Stack `steps` copies of a model state on a new leading axis, one for each inner step."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], steps, axis=0), state)


def step_state(state: PyTree, step: Array | int) -> PyTree:
    """Select the model state of inner step `step` from a stack, the last one if `step` is beyond it."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[jnp.minimum(step, leaf.shape[0] - 1)], state)


def set_step_state(state: PyTree, step: Array | int, entry: PyTree) -> PyTree:
    """Replace the model state of inner step `step` in a stack, the last one if `step` is beyond it."""
    return jax.tree.map(
        lambda leaf, new: leaf.at[jnp.minimum(step, leaf.shape[0] - 1)].set(new), state, entry
    )
