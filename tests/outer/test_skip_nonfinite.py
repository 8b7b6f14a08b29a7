"""A learner that leaves out updates that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_run

from jmeta.data.episodes import sample_tasks
from jmeta.outer.finite import NonFiniteError
from jmeta.outer.loop import Plan, fit
from jmeta.outer.seeds import seed_keys, take_seed, vmap_seeds
from jmeta.outer.skip_nonfinite import skip_nonfinite


def tasks_of(step, spoiled=False):
    tasks = sample_tasks(toy_run.sampler(), jax.random.key(1), step, 4)
    return (
        tasks._replace(query=tasks.query._replace(y=tasks.query.y.at[2].set(jnp.nan))) if spoiled else tasks
    )


def test_a_spoiled_step_only_counts():
    plain, learner = toy_run.make(), skip_nonfinite(toy_run.make())
    alone, state = toy_run.start(plain), toy_run.start(learner)
    for step in range(4):
        before = state
        state, measured = jax.jit(learner.step)(state, tasks_of(step, spoiled=step == 1))
        assert measured["skipped"] == (step == 1)
        if step == 1:
            assert not np.isfinite(measured["loss"]).all() and int(state.step) == 2
            jax.tree.map(np.testing.assert_array_equal, state[1:4], before[1:4])
            alone = alone._replace(step=alone.step + 1)
        else:
            alone, _ = jax.jit(plain.step)(alone, tasks_of(step))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state[:4], alone[:4])


def test_each_seed_leaves_out_its_own_steps():
    learner = vmap_seeds(skip_nonfinite(toy_run.make()))
    state = learner.init(seed_keys(0, 3), jnp.zeros((1, 3), jnp.float32))
    lost = state.meta["w"].at[1].set(1e30)  # whose squared error is infinite
    state = state._replace(meta={**state.meta, "w": lost})
    moved, measured = jax.jit(learner.step)(state, tasks_of(0))
    np.testing.assert_array_equal(measured["skipped"], [0, 1, 0])
    still = [bool((take_seed(moved, i).meta["w"] == take_seed(state, i).meta["w"]).all()) for i in range(3)]
    assert still == [False, True, False]


def test_a_run_goes_on_beside_a_lost_seed():
    """The run ends, its log and its bests are those of the other seeds."""

    def run(learner, allow):
        state = learner.init(seed_keys(0, 3), jnp.zeros((1, 3), jnp.float32))
        rates = state.meta["log_rate"].at[1].set(200)  # whose exponential is infinite
        state = state._replace(meta={**state.meta, "log_rate": rates})

        def validate(state):
            measured = learner.evaluate(state, tasks_of(0))
            return {"loss": np.asarray(measured["loss"]).mean(0)}

        lines = []
        plan = Plan(4, 6, 2, 2, 4, allow_nonfinite=allow)
        outcome = fit(
            learner, toy_run.sampler(), state, plan, key=jax.random.key(1), validate=validate,
            select=("loss", "min"), report=lambda line, steps: lines.append(line),
        )  # fmt: skip
        return outcome, lines

    outcome, lines = run(vmap_seeds(skip_nonfinite(toy_run.make())), True)
    train = [line for line in lines if line["split"] == "train"]
    assert outcome.reason == "done" and all(np.isfinite(line["loss"]) for line in train)
    np.testing.assert_allclose(train[-1]["skipped"], 1 / 3)
    validated = [line for line in lines if line["split"] == "validation"][-1]
    np.testing.assert_allclose(validated["loss"], np.mean(np.array(validated["loss_by_seed"])[[0, 2]]))
    np.testing.assert_array_equal(np.isfinite(outcome.best["metrics"]["loss"]), [True, False, True])
    assert outcome.best["step"][0] == outcome.best["step"][2] == 4
    with pytest.raises(NonFiniteError, match=r"loss of task 0, seed 1 .*is nan"):
        run(vmap_seeds(toy_run.make()), False)
