"""Several random seeds in one program: a learner is trained from several starts on the same tasks."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jmeta.types import Array, Key, Learner, LearnerState, Metrics, PyTree, Task

# Everything but the step has a leading seed axis.
_AXES = LearnerState._make([None, 0, 0, 0, 0])


def vmap_seeds(learner: Learner) -> Learner:
    """Wrap `learner` so that one copy is trained for every seed, all on the same tasks.

    Its `init(keys, x)` takes a key for each seed, [seed]; leaves of its state, but for `step`, have a leading
    axis [seed]. Metrics are [task, seed], or [seed] if the learner's are scalars. Each copy takes the steps
    that it would take alone.
    """

    def init(keys: Key, x: PyTree) -> LearnerState:
        if keys.ndim != 1:
            raise ValueError(f"vmap_seeds: keys of shape {keys.shape}; expected a key for each seed, [seed]")
        return jax.vmap(learner.init, in_axes=(0, None), out_axes=_AXES)(keys, x)

    def step(state: LearnerState, tasks: Task) -> tuple[LearnerState, Metrics]:
        state, measured = jax.vmap(learner.step, in_axes=(_AXES, None), out_axes=(_AXES, 0))(state, tasks)
        return state, _seeds_last(measured)

    def evaluate(state: LearnerState, tasks: Task, first: Array | int = 0) -> Metrics:
        return _seeds_last(jax.vmap(learner.evaluate, in_axes=(_AXES, None, None))(state, tasks, first))

    def check(state: LearnerState, tasks: Task, *, train: bool) -> None:
        jax.vmap(lambda state: learner.check(state, tasks, train=train), in_axes=(_AXES,))(state)

    return Learner(init, step, evaluate, check)


def seed_keys(seed: int, count: int) -> Key:
    """Make the keys of the seeds `seed`, `seed` + 1, ... [count], equal to those of separate runs."""
    return jax.vmap(jax.random.key)(seed + jnp.arange(count))


def take_seed(state: LearnerState, seed: int) -> LearnerState:
    """Extract the state of the seed with that index, as of a learner that was trained alone."""
    return LearnerState(state.step, *jax.tree.map(lambda leaf: leaf[seed], state[1:]))


def choose_seeds(states: Sequence[LearnerState]) -> LearnerState:
    """Combine states into one whose seed i is that of `states[i]`, with the last of their steps."""
    by_seed = [take_seed(state, seed) for seed, state in enumerate(states)]
    rest = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state[1:] for state in by_seed))
    return LearnerState(jnp.stack([state.step for state in states]).max(), *rest)


def _seeds_last(measured: Metrics) -> Metrics:
    """Transpose [seed, task] to [task, seed]; [seed] stays."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), measured)
