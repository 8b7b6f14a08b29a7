"""The loop in one process: what is logged, where it stops, what ends it."""

import json
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_run

from jmeta.outer import loop
from jmeta.outer.checkpoint import Checkpoints, IdentityError
from jmeta.outer.loop import NonFiniteError, Outcome, Plan, fit
from jmeta.outer.metrics_log import CLOCK_FIELDS, MetricsLog, read_metrics

PLAN = Plan(steps=30, meta_batch=4, log_every=6, eval_every=10, checkpoint_every=8)


pytestmark = pytest.mark.usefixtures("compiled_once")


def train(workdir, plan=PLAN, learner=None, **options):
    """A run in `workdir` with everything; the outcome."""
    learner = learner or toy_run.make()
    checkpoints, log = Checkpoints(workdir / "checkpoints", {"seed": 0}), MetricsLog(workdir)
    settings = {
        "validate": toy_run.validation(learner),
        "select": ("loss", "min"),
        "report": toy_run.quiet,
        "key": jax.random.key(1),
        **options,
    }
    try:
        state = toy_run.start(learner)
        return fit(learner, toy_run.sampler(), state, plan, checkpoints=checkpoints, log=log, **settings)
    finally:
        checkpoints.close()
        log.close()


def lines(workdir):
    records = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k not in CLOCK_FIELDS} for record in records]


def numbers(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_same_run(ours, theirs):
    """(workdir, outcome) each: equal bits and equal lines."""
    for a, b in zip(jax.tree.leaves(ours[1].state), jax.tree.leaves(theirs[1].state), strict=True):
        np.testing.assert_array_equal(numbers(a), numbers(b))
    assert ours[1].best == theirs[1].best
    assert json.dumps(lines(ours[0])) == json.dumps(lines(theirs[0]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run: (workdir, outcome)."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(workdir)


def stopper(dispatches, number=signal.SIGTERM):
    """A `stop` that hears a signal after so many dispatches."""
    calls = iter([None] * dispatches)
    return lambda: next(calls, number)


def test_the_run_is_the_learner_stepped_on_the_tasks_of_the_key(whole):
    """Against a plain Python loop, with the tasks drawn one by one."""
    learner, key = toy_run.make(), jax.random.key(1)
    state, losses = toy_run.start(learner), []
    step = jax.jit(learner.step)
    for number in range(12):
        step_key = jax.random.fold_in(key, number)
        keys = [jax.random.fold_in(step_key, i) for i in range(PLAN.meta_batch)]
        tasks = [toy_run.sampler()(task_key) for task_key in keys]
        state, metrics = step(state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks))
        losses.append(float(metrics["loss"].mean()))
    trained = [line for line in lines(whole[0]) if line["split"] == "train"]
    assert [line["step"] for line in trained] == [6, 12, 18, 24, 30]
    for line, part in zip(trained, (losses[:6], losses[6:])):
        np.testing.assert_allclose(line["loss"], np.mean(part), rtol=1e-5)
    assert trained[0].keys() == {"step", "split", "loss", "gradient_norm", "horizon"}


def test_validates_at_multiples_and_keeps_the_best(whole):
    workdir, outcome = whole
    assert isinstance(outcome, Outcome) and (outcome.step, outcome.reason) == (30, "done")
    validations = {line["step"]: line["loss"] for line in lines(workdir) if line["split"] == "validation"}
    assert list(validations) == [10, 20, 30]
    best = min(validations, key=validations.get)
    assert outcome.best["step"] == best and outcome.best["metrics"]["loss"] == validations[best]
    assert outcome.tasks_per_second > 0 and outcome.compile_seconds > 0
    learner = toy_run.make()
    state = Checkpoints.reader(workdir / "checkpoints").restore_best(
        jax.eval_shape(lambda: toy_run.start(learner))
    )
    assert int(state.step) == best
    assert toy_run.validation(learner)(state)["loss"] == pytest.approx(validations[best], rel=1e-6)


def test_patience_ends_training_after_validations_that_brought_nothing_better(tmp_path):
    """Losses 1, 3, 2, 2, ...: the best is at 10, and with patience 1 the second one after it is the last."""
    losses = dict(zip(range(10, 70, 10), [1.0, 3.0, 2.0, 2.0, 2.0, 0.5]))
    plan = PLAN._replace(steps=60, patience=1)

    def validate(state):
        return {"loss": losses[int(state.step)]}

    outcome = train(tmp_path, plan, validate=validate)
    assert (outcome.reason, outcome.step, outcome.best["step"]) == ("patience", 30, 10)
    again = train(tmp_path, plan, validate=validate)
    assert (again.reason, again.step, again.best["step"], again.compile_seconds) == ("patience", 30, 10, 0.0)
    longer = train(tmp_path, plan._replace(patience=4), validate=validate)
    assert (longer.reason, longer.step, longer.best["step"]) == ("done", 60, 60)


@pytest.mark.parametrize("dispatches", [1, 4])
def test_stopped_and_resumed_is_the_same_run(whole, tmp_path, dispatches):
    """And so does it not matter how long a dispatch is: single steps before, as many as fit after."""
    stopped = train(tmp_path, PLAN._replace(dispatch_seconds=0), stop=stopper(dispatches))
    assert (stopped.reason, stopped.signal, stopped.step) == ("signal", signal.SIGTERM, dispatches)
    assert Checkpoints.reader(tmp_path / "checkpoints").latest_step() == dispatches
    resumed = train(tmp_path, PLAN._replace(dispatch_seconds=100))
    assert_same_run((tmp_path, resumed), whole)


def test_a_signal_during_the_last_dispatch_is_heard(whole, tmp_path):
    """The run is complete then; the same call again says so."""
    plan = PLAN._replace(dispatch_seconds=0)
    stopped = train(tmp_path, plan, stop=stopper(PLAN.steps))
    assert (stopped.reason, stopped.signal, stopped.step) == ("signal", signal.SIGTERM, 30)
    again = train(tmp_path, plan)
    assert again.reason == "done"
    assert_same_run((tmp_path, again), whole)


def test_the_first_dispatch_is_reported_and_not_logged(tmp_path):
    """Of each part of a run."""
    reported = []
    for steps in (8, 16):
        plan = PLAN._replace(steps=steps, eval_every=0, dispatch_seconds=100)
        train(tmp_path, plan, report=lambda line, steps: reported.append(line))
    first = [line for line in reported if "compile_seconds" in line]
    assert [line["step"] for line in first] == [1, 9] and all(line["loss"] > 0 for line in first)
    assert [line["step"] for line in reported] == [1, 6, 8, 9, 12, 16]
    assert [line["step"] for line in lines(tmp_path)] == [6, 8, 12, 16]


def test_the_time_left_counts_validations_and_the_test(tmp_path, monkeypatch):
    """Steps of 1 s but for the first, which warms up for 100, and validations of 60, 10 and 30 s;
    the test compiles for 50 s, as the first validation does."""
    clock, reported, said = [0.0], [], []
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    device_get = jax.device_get

    def finish(values):
        clock[0] += 100.0 if clock[0] == 0 else 1.0
        return device_get(values)

    def validate(state):
        clock[0] += {2: 60.0, 4: 10.0}.get(int(state.step), 30.0)
        return {"loss": 1.0}

    monkeypatch.setattr(loop.jax, "device_get", finish)
    plan = PLAN._replace(steps=7, log_every=1, eval_every=2, dispatch_seconds=0, test_validations=3)
    train(tmp_path, plan, validate=validate, report=lambda line, _: reported.append(line), say=said.append)
    left = {
        line["step"]: (line.get("left"), line.get("uncounted"), line.get("at_most"))
        for line in reported
        if line["split"] == "train" and "compile_seconds" not in line
    }
    assert left == {
        1: (None, None, None),
        2: (5.0, "validations and test", None),
        3: (4 + 60.0 * (3 + 3), "", True),
        4: (3 + 60.0 * (3 + 3), "", True),
        5: (2 + 10.0 * (2 + 3) + 50, "", False),
        6: (1 + 10.0 * (2 + 3) + 50, "", False),
        7: (0 + 10.0 * (1 + 3) + 50, "", False),
    }
    assert said == [
        "compiling the training (about a minute the first time)",
        "validating (compiles the first time)",
    ]
    assert not {"left", "uncounted", "at_most"} & lines(tmp_path)[-2].keys()


def test_the_time_left_counts_later_stages_and_ends_at_the_deadline():
    steady = loop._Pace(steps=10, seconds=20.0)
    outputs = loop._Outputs(PLAN._replace(steps=30, eval_every=0, last_step=100), *[None] * 7, np.inf)
    assert loop._time_left(outputs, 20, steady)["left"] == 160.0
    late = outputs._replace(deadline=time.monotonic() + 5)
    assert 4 < loop._time_left(late, 20, steady)["left"] <= 5
    assert loop._time_left(outputs, 20, loop._Pace()) == {}


def test_a_prolonged_run_is_the_longer_run(whole, tmp_path):
    """Apart from the line and the validation at the end of the shorter one, which stay."""
    train(tmp_path, PLAN._replace(steps=15))
    prolonged = train(tmp_path)
    rest = [line for line in lines(tmp_path) if line["step"] != 15]
    assert json.dumps(rest) == json.dumps(lines(whole[0]))
    assert len(lines(tmp_path)) == len(rest) + 2
    np.testing.assert_array_equal(prolonged.state.meta["w"], whole[1].state.meta["w"])
    assert prolonged.best == whole[1].best
    again = train(tmp_path)
    assert again.step == 30 and again.best == prolonged.best and len(lines(tmp_path)) == len(rest) + 2


def test_the_end_of_a_shorter_run_does_not_choose_for_a_longer_one(tmp_path):
    """A validation at the end, between those that every run makes, counts for the run that ends there."""
    scores = {10: 1.0, 15: 0.1, 20: 0.5, 30: 0.7}
    plan = PLAN._replace(eval_every=10)

    def validate(state):
        return {"loss": scores[int(state.step)]}

    ended = train(tmp_path, plan._replace(steps=15), validate=validate)
    assert ended.best["step"] == 15
    again = train(tmp_path, plan._replace(steps=15), validate=validate)
    assert again.best["step"] == 15
    prolonged = train(tmp_path, plan._replace(steps=30), validate=validate)
    assert prolonged.best["step"] == 20
    best = Checkpoints.reader(tmp_path / "checkpoints").restore_best(prolonged.state)
    assert int(best.step) == 20


def test_time_stops_in_good_order(tmp_path):
    late = train(tmp_path, PLAN._replace(max_minutes=0.0))
    assert (late.reason, late.step, late.signal) == ("time", 0, None)
    assert Checkpoints.reader(tmp_path / "checkpoints").latest_step() == 0
    assert train(tmp_path, PLAN._replace(deadline=time.monotonic() - 1)).reason == "time"


def broken(**wrong):
    """A learner whose 8th step reports what `wrong` makes of its metrics, for task 2."""
    learner = toy_run.make()

    def step(state, tasks):
        new, metrics = learner.step(state, tasks)
        for name, value in wrong.items():
            spoilt = metrics[name].at[2].set(value) if metrics[name].ndim else jnp.full((), value)
            metrics[name] = jnp.where(state.step == 7, spoilt.astype(metrics[name].dtype), metrics[name])
        return new, metrics

    return learner._replace(step=step)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"loss": np.nan, "gradient_norm": np.nan},
            r"step 8: loss of task 2 \(horizon 0\.1.*\) is nan; go back",
        ),
        ({"gradient_norm": np.inf}, r"step 8: gradient_norm .*is inf; go back to the checkpoint of step 5$"),
        ({"flow_ok": False, "loss": np.nan}, r"step 8: flow_ok of task 2 \(horizon .*\) is False"),
    ],
)
def test_what_is_not_finite_ends_the_run_with_one_line(tmp_path, wrong, message):
    plan = PLAN._replace(checkpoint_every=5, eval_every=0)
    with pytest.raises(NonFiniteError, match=message) as caught:
        train(tmp_path, plan, broken(**wrong))
    assert "\n" not in str(caught.value)
    assert Checkpoints.reader(tmp_path / "checkpoints").latest_step() == 5
    assert [line["step"] for line in lines(tmp_path)] == [6]


def test_a_poisoned_state_is_never_written(tmp_path):
    """Its loss and gradient were finite, its parameters are not."""
    learner = toy_run.make()

    def step(state, tasks):
        new, metrics = learner.step(state, tasks)
        spoilt = {**new.meta, "w": jnp.where(state.step == 7, jnp.nan, new.meta["w"])}
        return new._replace(meta=spoilt), metrics

    with pytest.raises(NonFiniteError, match="step 8: meta/w is not finite; there is no checkpoint"):
        train(tmp_path, PLAN._replace(steps=8, eval_every=0), learner._replace(step=step))


def test_a_validation_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(NonFiniteError, match="step 10: flow_ok of the validation is 0.5"):
        train(tmp_path, validate=lambda state: {"loss": 1.0, "flow_ok": 0.5})


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no metric 'accuracy'; it has flow_ok, horizon, loss"):
        train(tmp_path, PLAN._replace(eval_every=1), select=("accuracy", "max"))
    with pytest.raises(ValueError, match="log_every=0; expected at least 1"):
        train(tmp_path, PLAN._replace(log_every=0))
    with pytest.raises(ValueError, match="expected .metric, 'max'. or"):
        train(tmp_path, select=("loss", "least"))


def test_runs_without_outputs_and_with_a_bare_sampler():
    """Nothing but a learner, a sampler and a plan; the caller's state stays usable."""
    learner = toy_run.make()
    state = toy_run.start(learner)
    outcome = fit(
        learner,
        lambda key: toy_run.sampler()(key),
        state,
        PLAN._replace(steps=3),
        key=jax.random.key(1),
        report=toy_run.quiet,
    )
    assert outcome.best is None and int(outcome.state.step) == 3 and int(state.step) == 0
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_another_identity_is_refused(whole):
    with pytest.raises(IdentityError):
        Checkpoints(whole[0] / "checkpoints", {"seed": 1}).check_identity()
