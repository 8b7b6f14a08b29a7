"""What a batch-normalised network normalises with: the four policies that every reported number names.

| policy | support set and query set are normalised with | running averages |
|---|---|---|
| `batch` | the statistics of the batch at hand (MAML; transductive: a query sees the others) | not used |
| `support` | the support set's statistics, in both | not used |
| `running` | batch statistics while training, the running ones at evaluation | one for all steps |
| `per_step` | as `running` | one for each inner step (MAML++) |
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key, Model, PyTree

Norm = Literal["batch", "support", "running", "per_step"]


def check_norm(norm: str) -> None:
    """Raise ValueError where `norm` is none of the four policies."""
    if norm not in get_args(Norm):
        raise ValueError(f"norm is {norm!r}; choose one of {', '.join(get_args(Norm))}")


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
    """`model` on inputs `x` [example, ...] under a normalisation policy: (outputs, state).

    `state` is the model's; with `support` it is what `support_state` returned, with `per_step` one step's
    entry (`step_state`). The returned state differs from it only in training under `running` and `per_step`.
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
    """A model state whose running statistics are the batch statistics of `x` [example, ...].

    A running average s becomes m s + (1 - m) batch, whatever m the network has. So a pass from s = 0 gives
    (1 - m) batch, and its derivative in the direction of ones is m. Leaves that are not floating, and those
    that the pass leaves alone (m = 1), keep their value. Differentiable in `params` and `x`.
    """
    leaves, structure = jax.tree.flatten(state)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def one_pass(averages: list[Array]) -> list[Array]:
        rest = iter(averages)
        start = [next(rest) if is_float else leaf for leaf, is_float in zip(leaves, floating)]
        _, updated = model.apply(
            params, jax.tree.unflatten(structure, start), x, train=True, key=key, mask=mask
        )
        return [leaf for leaf, is_float in zip(jax.tree.leaves(updated), floating) if is_float]

    averages = [leaf for leaf, is_float in zip(leaves, floating) if is_float]
    zeros, ones = jax.tree.map(jnp.zeros_like, averages), jax.tree.map(jnp.ones_like, averages)
    share, momentum = jax.jvp(one_pass, (zeros,), (ones,))
    batch = iter(
        jnp.where(m == 1, old, s / jnp.where(m == 1, 1, 1 - m))
        for old, s, m in zip(averages, share, momentum)
    )
    found = [next(batch) if is_float else leaf for leaf, is_float in zip(leaves, floating)]
    return jax.tree.unflatten(structure, found)


def stack_state(state: PyTree, steps: int) -> PyTree:
    """`steps` copies of a model state on a new leading axis: one running statistic for each inner step."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], steps, axis=0), state)


def step_state(state: PyTree, step: Array | int) -> PyTree:
    """The model state of inner step `step` from a stack; of the last one where `step` is beyond it."""
    return jax.tree.map(lambda leaf: leaf[jnp.minimum(step, leaf.shape[0] - 1)], state)


def set_step_state(state: PyTree, step: Array | int, entry: PyTree) -> PyTree:
    """The stack `state` with `entry` as the model state of inner step `step` (the last where it is
    beyond)."""
    return jax.tree.map(
        lambda leaf, new: leaf.at[jnp.minimum(step, leaf.shape[0] - 1)].set(new), state, entry
    )
