"""Many random seeds side by side: one program trains a learner from several starts on the same tasks."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key, Learner, LearnerState, Metrics, PyTree, Task

# Everything but the step has a leading seed axis.
_AXES = LearnerState._make([None, 0, 0, 0, 0])


def side_by_side(learner: Learner) -> Learner:
    """A learner that trains one copy of `learner` for every seed, all on the same tasks.

    Its `init(keys, x)` takes a key for each seed, [seed]; leaves of its state, but for `step`, have a leading
    axis [seed]. Metrics are [task, seed], and [seed] where the learner's are scalars. Each copy takes the
    steps that it would take alone.
    """

    def init(keys: Key, x: PyTree) -> LearnerState:
        if keys.ndim != 1:
            raise ValueError(
                f"side_by_side: keys of shape {keys.shape}; expected a key for each seed, [seed]"
            )
        return jax.vmap(learner.init, in_axes=(0, None), out_axes=_AXES)(keys, x)

    def step(state: LearnerState, tasks: Task) -> tuple[LearnerState, Metrics]:
        state, measured = jax.vmap(learner.step, in_axes=(_AXES, None), out_axes=(_AXES, 0))(state, tasks)
        return state, _seeds_last(measured)

    def evaluate(state: LearnerState, tasks: Task, first: Array | int = 0) -> Metrics:
        return _seeds_last(jax.vmap(learner.evaluate, in_axes=(_AXES, None, None))(state, tasks, first))

    return Learner(init, step, evaluate)


def seed_keys(seed: int, count: int) -> Key:
    """The keys of the seeds `seed`, `seed` + 1, ... [count], those of runs one after another."""
    return jax.vmap(jax.random.key)(seed + jnp.arange(count))


def take_seed(state: LearnerState, seed: int) -> LearnerState:
    """The state of the seed with that index, as of a learner that trained alone."""
    return LearnerState(state.step, *jax.tree.map(lambda leaf: leaf[seed], state[1:]))


def choose_seeds(states: Sequence[LearnerState]) -> LearnerState:
    """One state whose seed i is that of `states[i]`, with the last of their steps."""
    chosen = [take_seed(state, seed) for seed, state in enumerate(states)]
    rest = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state[1:] for state in chosen))
    return LearnerState(jnp.stack([state.step for state in states]).max(), *rest)


def _seeds_last(measured: Metrics) -> Metrics:
    """[seed, task] as [task, seed]; [seed] stays."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), measured)
