"""Leave out outer updates that are not finite, where a rare task throws its inner loop away."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jmeta.types import Array, Learner, LearnerState, Metrics, PyTree, Task


def skipping(learner: Learner) -> Learner:
    """`learner`, but that a step with a loss, gradient or parameter that is not finite only counts.

    The learned parameters, the model's state and the optimiser's stay what they were. Metrics have `skipped`
    [], 1 for such a step and else 0; its losses are reported as they came, and `jmeta.outer.loop.Plan` has to
    allow them. Under `jmeta.side_by_side(skipping(learner))` each seed leaves out its own steps.
    """

    def step(state: LearnerState, tasks: Task) -> tuple[LearnerState, Metrics]:
        moved, measured = learner.step(state, tasks)
        fine = _finite((moved.meta, moved.model_state, measured["loss"], measured["gradient_norm"]))
        kept = jax.tree.map(lambda new, old: jnp.where(fine, new, old), moved, state)
        skipped = {"skipped": 1 - fine.astype(jnp.float32)}
        return kept._replace(step=moved.step, key=moved.key), measured | skipped

    return Learner(learner.init, step, learner.evaluate)


def _finite(tree: PyTree) -> Array:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()
