"""Seeds in one program against the same seeds in separate runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_run

from jmeta.data.episodes import sample_tasks
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.evaluate import evaluate
from jmeta.outer.loop import Plan, fit
from jmeta.outer.seeds import choose_seeds, seed_keys, take_seed, vmap_seeds

SEEDS = 3


def _states(learner, joint):
    x = jnp.zeros((1, 3), jnp.float32)
    return joint.init(seed_keys(5, SEEDS), x), [learner.init(jax.random.key(5 + i), x) for i in range(SEEDS)]


def _close(mine, theirs):
    for a, b in zip(jax.tree.leaves(mine[:4]), jax.tree.leaves(theirs[:4]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert (jax.random.key_data(mine.key) == jax.random.key_data(theirs.key)).all()


def test_each_seed_takes_the_steps_that_it_would_take_alone():
    learner = toy_run.make()
    joint = vmap_seeds(learner)
    state, alone = _states(learner, joint)
    for step in range(4):
        tasks = sample_tasks(toy_run.sampler(), jax.random.key(1), step, 4)
        state, measured = jax.jit(joint.step)(state, tasks)
        results = [jax.jit(learner.step)(one, tasks) for one in alone]
        alone = [one for one, _ in results]
        assert measured["loss"].shape == (4, SEEDS) and measured["gradient_norm"].shape == (SEEDS,)
        for seed, (one, metrics) in enumerate(results):
            np.testing.assert_allclose(measured["loss"][:, seed], metrics["loss"], rtol=1e-5)
            np.testing.assert_allclose(measured["gradient_norm"][seed], metrics["gradient_norm"], rtol=1e-5)
            _close(take_seed(state, seed), one)
    values = evaluate(joint, state, toy_run.sampler(), num_tasks=7, key=jax.random.key(2), batch=4)
    assert values["loss"].shape == (7, SEEDS)
    reference = evaluate(learner, alone[1], toy_run.sampler(), num_tasks=7, key=jax.random.key(2))
    np.testing.assert_allclose(values["loss"][:, 1], reference["loss"], rtol=1e-5)


def test_each_seed_keeps_its_own_best(tmp_path):
    """Validations whose bests lie at different steps for the three seeds, one in a resumed part."""
    learner = vmap_seeds(toy_run.make())
    state, _ = _states(toy_run.make(), learner)
    scores = {2: [3.0, 1.0, 5.0], 4: [2.0, 2.0, 6.0], 6: [1.0, 3.0, 4.0], 8: [1.5, 0.5, 9.0]}
    seen = {}

    def validate(state):
        step = int(state.step)
        seen[step] = state.meta["w"]
        return {"loss": np.array(scores[step])}

    def train(steps):
        checkpoints = Checkpoints(tmp_path, {"a": 1}, say=lambda line: None)
        plan = Plan(steps, 2, log_every=1, eval_every=2, checkpoint_every=3)
        outcome = fit(
            learner, toy_run.sampler(), state, plan, key=jax.random.key(0), validate=validate,
            select=("loss", "min"), checkpoints=checkpoints, report=toy_run.quiet,
        )  # fmt: skip
        best = checkpoints.restore_best(outcome.state)
        checkpoints.close()
        return outcome, best

    outcome, best = train(6)
    assert outcome.best == {"step": [6, 2, 6], "metrics": {"loss": [1.0, 1.0, 4.0]}}
    outcome, best = train(8)
    assert outcome.best == {"step": [6, 8, 6], "metrics": {"loss": [1.0, 0.5, 4.0]}}
    for seed, step in enumerate((6, 8, 6)):
        assert (best.meta["w"][seed] == seen[step][seed]).all()


def test_choosing_and_taking_are_inverse():
    learner = toy_run.make()
    state, alone = _states(learner, vmap_seeds(learner))
    chosen = choose_seeds([state] * SEEDS)
    for seed in range(SEEDS):
        _close(take_seed(chosen, seed), alone[seed])


def test_one_key_is_refused():
    with pytest.raises(ValueError, match="a key for each seed"):
        vmap_seeds(toy_run.make()).init(jax.random.key(0), jnp.zeros((1, 3)))
