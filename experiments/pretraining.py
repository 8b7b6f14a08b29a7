"""OSAKA's pre-training: MAML on episodes of Omniglot until validations bring nothing better.

Deviations. Classes of Omniglot are ordered by a seeded permutation before they are divided into those for
training, validation and the stream.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from experiments.errors import Interrupted
from experiments.runner import VALIDATION_SEED, Run
from experiments.trials import Point, Trials
from jmeta.data.class_dataset import ClassDataset
from jmeta.data.source import Sampler
from jmeta.data.streams.osaka import pretraining_episodes
from jmeta.online.osaka_methods import Method
from jmeta.outer.loop import Outcome
from jmeta.outer.seeds import seed_keys
from jmeta.types import LearnerState

CLASS_SEED = 0  # of the order of Omniglot's classes, of which the first are for pre-training
TRAINING, VALIDATION = slice(900), slice(900, 1000)
VALIDATE_EVERY = 100
# The flags of a grid that change the pre-training too.
_TUNABLE = ("learning_rate", "mask_learning_rate", "inner_lr")


class Pretrained(NamedTuple):
    """The slow weights that every trial starts from, `slow` [trial, ...], and the `outcomes` [point]."""

    slow: LearnerState
    outcomes: list[Outcome]

    def numbers(self, point: int) -> dict[str, float]:
        """List the steps that a point took, and its accuracy, the mean over seeds."""
        outcome = self.outcomes[point]
        if not outcome.best:
            return {}
        accuracy = float(np.mean(outcome.best["metrics"]["accuracy"]))
        return {"pretraining_steps": float(outcome.step), "pretraining_accuracy": accuracy}


def pretrain_trials(
    run: Run, trials: Trials, make_method: Callable[[Point], Method], characters: ClassDataset
) -> Pretrained:
    """Pre-train the method of each point of the grid, once for points that pre-train alike.

    Raises Interrupted if a signal or the end of the time stops it.
    """
    settings, outcomes = run.settings, {}
    size = settings.take("way", "shot", "query")
    names = []
    for point in trials.points:
        values = {name: value for name, value in point.items() if name in _TUNABLE}
        names.append(",".join(f"{name}={value:g}" for name, value in values.items()))
        if names[-1] not in outcomes:
            samplers = pretraining_samplers(characters, **size)
            folder = run.workdir / "pretraining" / names[-1]
            outcomes[names[-1]] = pretrain(run, make_method(values), *samplers, folder)
        if outcomes[names[-1]].reason in ("time", "signal"):
            raise Interrupted(
                f"stopped while pre-training; the same command goes on from {run.workdir}",
                outcomes[names[-1]].signal,
            )

    def of_seeds(state: LearnerState) -> LearnerState:
        repeat = functools.partial(jax.tree.map, lambda leaf: jnp.stack([leaf] * settings.num_seeds))
        return repeat(state) if settings.shared_pretraining else state._replace(step=repeat(state.step))

    states = [of_seeds(outcomes[name].state) for name in names]
    slow = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)
    return Pretrained(slow, [outcomes[name] for name in names])


def pretraining_samplers(characters: ClassDataset, **size: int) -> tuple[Sampler, Sampler]:
    """Make the samplers of training and validation episodes, of different classes."""
    order = np.random.default_rng(CLASS_SEED).permutation(len(characters.counts))
    return tuple(pretraining_episodes(characters, order[part], **size) for part in (TRAINING, VALIDATION))


def pretrain(run: Run, method: Method, training: Sampler, validation: Sampler, folder: Path) -> Outcome:
    """Pre-train a method, or resume it, in a `folder` of its own; the outcome has the best state.

    If seeds do not share it, everything in the state but the step has a leading axis [seed].
    """
    settings = run.settings
    learner = jmeta.learner(
        method.pretraining,
        jmeta.cross_entropy,
        method.tx,
        metrics=jmeta.accuracy,
        chunk=settings.meta_batch,  # bounds the memory of validations
    )
    key = jax.random.key(settings.seed)
    example = jax.jit(lambda sampler: sampler(jax.random.key(0)))(training)
    if not settings.shared_pretraining:
        learner, key = jmeta.vmap_seeds(learner), seed_keys(settings.seed, settings.num_seeds)
    state = jax.jit(lambda key: learner.init(key, jax.device_get(example)))(key)

    def validate(state: LearnerState) -> dict[str, Any]:
        key = jax.random.key(VALIDATION_SEED)
        values = jmeta.evaluate(learner, state, validation, num_tasks=settings.validation_tasks, key=key)
        return {name: value.mean(0) for name, value in values.items()}

    plan = jmeta.Plan(
        steps=settings.pretrain_steps,
        meta_batch=settings.meta_batch,
        log_every=VALIDATE_EVERY,
        eval_every=VALIDATE_EVERY,
        checkpoint_every=VALIDATE_EVERY,
        deadline=run.deadline,
        patience=settings.patience,
    )
    task_key = jax.random.fold_in(jax.random.key(settings.seed), 1)
    with run.open_checkpoints(folder) as checkpoints, contextlib.closing(jmeta.MetricsLog(folder)) as log:
        outcome = jmeta.fit(
            learner, training, state, plan, key=task_key, validate=validate, checkpoints=checkpoints, log=log
        )
        return outcome._replace(state=checkpoints.restore_best(outcome.state))
