"""Outer updates that are not finite are left out, as when a rare task makes its inner loop diverge."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jmeta.types import Array, Learner, LearnerState, Metrics, PyTree, Task


def skip_nonfinite(learner: Learner) -> Learner:
    """Wrap `learner` so that steps with a non-finite loss, gradient or parameter are counted but not applied.

    Such a step leaves the learned parameters, the model's state and the optimizer's state as they were.
    Metrics have `skipped` [], 1 for such a step and else 0; its losses are reported unchanged, and
    `jmeta.outer.loop.Plan` has to allow them. Under `jmeta.vmap_seeds(skip_nonfinite(learner))` each seed
    skips its own steps.
    """

    def step(state: LearnerState, tasks: Task) -> tuple[LearnerState, Metrics]:
        updated, measured = learner.step(state, tasks)
        finite = _is_finite((updated.meta, updated.model_state, measured["loss"], measured["gradient_norm"]))
        selected = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        skipped = {"skipped": 1 - finite.astype(jnp.float32)}
        return selected._replace(step=updated.step, key=updated.key), measured | skipped

    return learner._replace(step=step)


def _is_finite(tree: PyTree) -> Array:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()
