"""What an OSAKA run learns before its stream: MAML on Omniglot, as far as validations get better."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.osaka import CHANGE_PRETRAINING, pretrains
from experiments.osaka_learners import at_point, make_adapter, make_optimiser
from experiments.run import VALIDATION_SEED
from jmeta.data import osaka
from jmeta.data.class_dataset import ClassDataset
from jmeta.losses import cross_entropy
from jmeta.metrics import accuracy
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.evaluate import evaluate
from jmeta.outer.learner import learner as episodic_learner
from jmeta.outer.loop import Outcome, Plan, fit
from jmeta.outer.metrics_log import MetricsLog
from jmeta.outer.seeds import seed_keys, side_by_side
from jmeta.types import Key, LearnerState

CLASS_SEED = 0  # of the order of Omniglot's classes, of which the first are for pre-training
TRAINING, VALIDATION = slice(900), slice(900, 1000)
VALIDATE_EVERY = 100


def pretrain_all(
    settings: SimpleNamespace,
    points: Sequence[Mapping[str, float]],
    characters: ClassDataset,
    identified: dict[str, Any],
    workdir: Path,
    deadline: float,
) -> list[Outcome]:
    """Pre-train for each point of the grid, once where nothing that matters differs; [] where the algorithm
    has none, and shorter than the points where time or a signal ended it."""
    outcomes: dict[str, Outcome] = {}
    found = []
    for point in points if pretrains(settings) else ():
        values = {name: value for name, value in point.items() if name in CHANGE_PRETRAINING}
        name = ",".join(f"{name}={value:g}" for name, value in values.items())
        if name not in outcomes:
            folder = workdir / "pretraining" / name
            outcomes[name] = pretrain(at_point(settings, values), characters, identified, folder, deadline)
        found.append(outcomes[name])
        if found[-1].reason in ("time", "signal"):
            break
    return found


def pretrain(
    settings: SimpleNamespace,
    characters: ClassDataset,
    identified: dict[str, Any],
    folder: Path,
    deadline: float,
) -> Outcome:
    """MAML on episodes of Omniglot until validations bring nothing better; its best state.

    Where seeds do not share it, the state has a leading axis [seed] on everything but the step.
    """
    order = np.random.default_rng(CLASS_SEED).permutation(len(characters.counts))
    size = {"way": settings.way, "shot": settings.shot, "query": settings.query}
    training, validation = (
        osaka.pretraining_episodes(characters, order[part], **size) for part in (TRAINING, VALIDATION)
    )
    adapter = make_adapter(settings, pretraining=True)
    learner = episodic_learner(
        adapter,
        cross_entropy,
        make_optimiser(settings),
        metrics=accuracy,
        chunk=settings.meta_batch,  # bounds the memory of validations
    )
    key: Key = jax.random.key(settings.seed)
    example = jax.jit(lambda sampler: sampler(jax.random.key(0)))(training)
    if not settings.shared_pretraining:
        learner, key = side_by_side(learner), seed_keys(settings.seed, settings.num_seeds)
    state = jax.jit(lambda key: learner.init(key, jax.device_get(example)))(key)

    def validate(state: LearnerState) -> dict[str, Any]:
        key = jax.random.key(VALIDATION_SEED)
        values = evaluate(learner, state, validation, num_tasks=settings.validation_tasks, key=key)
        return {name: value.mean(0) for name, value in values.items()}

    plan = Plan(
        steps=settings.pretrain_steps,
        meta_batch=settings.meta_batch,
        log_every=VALIDATE_EVERY,
        eval_every=VALIDATE_EVERY,
        checkpoint_every=VALIDATE_EVERY,
        deadline=deadline,
        patience=settings.patience,
    )
    with (
        contextlib.closing(Checkpoints(folder / "checkpoints", identified)) as checkpoints,
        contextlib.closing(MetricsLog(folder)) as log,
    ):
        outcome = fit(
            learner,
            training,
            state,
            plan,
            key=jax.random.fold_in(jax.random.key(settings.seed), 1),
            validate=validate,
            checkpoints=checkpoints,
            log=log,
        )
        return outcome._replace(state=checkpoints.restore_best(outcome.state))


def pretrained_lanes(
    settings: SimpleNamespace, outcomes: Sequence[Outcome], points: Sequence[Mapping[str, float]]
) -> LearnerState:
    """The pre-trained slow weights of every lane, leaves [lane, ...]."""

    def of_seeds(state: LearnerState) -> LearnerState:
        repeat = functools.partial(jax.tree.map, lambda leaf: jnp.stack([leaf] * settings.num_seeds))
        if settings.shared_pretraining:
            return repeat(state)
        return state._replace(step=repeat(state.step))

    states = [of_seeds(outcome.state) for outcome in outcomes]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)
