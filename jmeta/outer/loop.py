"""The outer loop: many steps in one dispatch, with logs, validation and checkpoints between dispatches."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from jmeta.data.episodes import sample_tasks
from jmeta.outer.checkpoint import Checkpoints, best_steps
from jmeta.outer.finite import NonFiniteError as NonFiniteError
from jmeta.outer.finite import all_finite, check_steps, check_validation
from jmeta.outer.mesh import replicate, replicated, shard_tasks, task_mesh
from jmeta.outer.metrics_log import MetricsLog
from jmeta.outer.progress import announce, to_standard_error
from jmeta.outer.signals import promising, stop_on_signals
from jmeta.types import Array, Key, Learner, LearnerState, Metrics, PyTree, Task

# The most steps of a dispatch. A constant, so that every plan compiles to the same program and numbers.
BUFFER = 128


class Plan(NamedTuple):
    """The length of a training and its schedule of logs, validations and checkpoints, in outer steps.

    `eval_every` 0 never validates. `max_minutes` counts from the call of `fit`; `deadline` is a value of
    `time.monotonic()`; both stop in good order. A dispatch takes about `dispatch_seconds`, which is also the
    longest delay before a signal is handled; no number depends on it. Training ends once more than `patience`
    validations in a row have not improved (any seed); None never ends it. With `allow_nonfinite` a non-finite
    loss, gradient or validation does not end training, as is needed for a learner that leaves such updates
    out (`jmeta.skip_nonfinite`). For the time left that is shown: the test that follows takes as long as
    `test_validations` validations (0 if none follows), and training goes on to `last_step`, if these steps
    are a part of it.
    """

    steps: int
    meta_batch: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    max_minutes: float | None = None
    deadline: float | None = None
    dispatch_seconds: float = 2.0
    patience: int | None = None
    allow_nonfinite: bool = False
    test_validations: float = 0.0
    last_step: int | None = None


class Outcome(NamedTuple):
    """The end of a training. `signal` is the number of the signal that stopped it; `best` is {"step",
    "metrics"} of the best validation (lists, if each seed has its own); `seconds` of training (without
    validation and compilation) and `tasks_per_second` cover all parts of a resumed run, `compile_seconds`
    this part only."""

    state: LearnerState
    step: int
    reason: Literal["done", "time", "signal", "patience"]
    signal: int | None
    best: dict[str, Any] | None
    seconds: float
    compile_seconds: float
    tasks_per_second: float


class Window(NamedTuple):
    """Sums over the steps since the last logged line; part of a checkpoint."""

    steps: int = 0
    seconds: float = 0.0
    sums: Mapping[str, float] = MappingProxyType({})


class Progress(NamedTuple):
    """A run's records beside its state; part of a checkpoint. `regular` is the best validation at a multiple
    of `eval_every`: a run that is prolonged goes on from it, as if it had never ended in between."""

    seconds: float = 0.0
    best: dict[str, Any] | None = None
    regular: dict[str, Any] | None = None
    window: Window = Window()


class _Pace(NamedTuple):
    """The pace of this part of a run, for the time left: `seconds` of `steps` after the first dispatch, which
    warms up, and the seconds of each of the `validations`, of which the first one compiles."""

    steps: int = 0
    seconds: float = 0.0
    validations: tuple[float, ...] = ()


class _Outputs(NamedTuple):
    """The actions between dispatches, and their outputs; `deadline` by `time.monotonic()`."""

    plan: Plan
    validate: Callable[[LearnerState], Mapping[str, Any]] | None
    select: tuple[str, str]
    checkpoints: Checkpoints | None
    log: MetricsLog | None
    report: Callable[[dict[str, Any], int], None]
    learned: Callable[[LearnerState], Mapping[str, float]] | None
    say: Callable[[str], None]
    deadline: float

    def emit(self, line: dict[str, Any], pace: _Pace) -> None:
        if self.log is not None:
            self.log.write(line)
        self.show(line | (_time_left(self, line["step"], pace) if line["split"] == "train" else {}))

    def show(self, line: dict[str, Any]) -> None:
        self.report(line, self.plan.last_step or self.plan.steps)

    def numbers(self, state: LearnerState) -> dict[str, float]:
        """Read the learned numbers for a line of the log."""
        return {
            f"learned/{name}": value for name, value in (self.learned(state) if self.learned else {}).items()
        }


def fit(
    learner: Learner,
    sampler: Callable[[Key], Task],
    state: LearnerState,
    plan: Plan,
    *,
    key: Key,
    validate: Callable[[LearnerState], Mapping[str, Any]] | None = None,
    select: tuple[str, str] = ("accuracy", "max"),
    checkpoints: Checkpoints | None = None,
    log: MetricsLog | None = None,
    report: Callable[[dict[str, Any], int], None] | None = None,
    learned: Callable[[LearnerState], Mapping[str, float]] | None = None,
    say: Callable[[str], None] | None = None,
    stop: Callable[[], int | None] | None = None,
    mesh: Mesh | None = None,
) -> Outcome:
    """Train until `plan.steps`, or until time or a signal stops it; continue from a checkpoint, if any.

    Args:
      learner: its `step` is compiled, with the sampling, into one program that runs many steps.
      sampler: `key -> Task`; a pytree (`jax.tree_util.Partial`), so that its data is an argument.
      state: a fresh state; it is copied, not consumed. A checkpoint takes precedence over it.
      plan: see `Plan`.
      key: the typed key of the tasks: task i of step s has the key fold_in(fold_in(key, s), i).
      validate: `state -> {metric: number}`, called at the multiples of `plan.eval_every` and at the end; with
        several seeds {metric: [seed]}, and each seed has its own best.
      select: the validated metric that chooses the best checkpoint, and "max" or "min".
      checkpoints: written every `plan.checkpoint_every` steps, at each new best, and at the end.
      log: receives a line every `plan.log_every` steps (means over the steps since the last one and over
        tasks) and every validation.
      report: `(line, last step) -> None` for each line, and for the first dispatch, whose line has
        `compile_seconds` and is not logged; by default progress on standard error. A line of training also
        has "left", the seconds that are left, "uncounted", what these do not count, and "at_most" if the
        only validation yet has compiled too.
      learned: reads numbers from a state, which the log has as learned/<name> at step 0 and in each line of
        training: their values at that step, where the metrics are means.
      say: called with a line for people before what takes long and is silent (compiling, the first
        validation); by default standard error, if `report` is the default too.
      stop: returns the number of a signal once training has to stop; the default catches SIGINT and SIGTERM.
        While one process compiles, they end it as they would without `fit`.
      mesh: tasks are sharded over its axis `task`, everything else is replicated; across processes every
        process makes the same call. By default the first device.

    Returns:
      `Outcome`; the checkpoint of its state is on disk.

    Raises:
      NonFiniteError: naming step, quantity, task, horizon and the checkpoint to go back to.
      CheckpointError, IdentityError: if checkpoints cannot be used.
      ValueError: for an invalid plan or `select`.
    """
    deadline = _deadline(plan)
    say = say or (_silent if report else announce)
    report = report or to_standard_error
    outputs = _Outputs(plan, validate, select, checkpoints, log, report, learned, say, deadline)
    _check(outputs)
    mesh = task_mesh(jax.devices()[:1]) if mesh is None else mesh
    state, progress = _resume(state, checkpoints, mesh, plan.steps)
    inputs = (replicate(_as_pytree(sampler), mesh), replicate(key, mesh))
    step = int(state.step)
    if log is not None:
        log.start(step)
        if step == 0 and learned is not None and (numbers := outputs.numbers(state)):
            log.write({"step": 0, "split": "train", **numbers})
    reason: Literal["done", "time", "signal", "patience"] = "done"
    signal, compile_seconds, seconds_a_step, pace = None, 0.0, None, _Pace()
    with contextlib.ExitStack() as stack:
        if stop is None and jax.process_count() > 1:  # one that ended by itself would end the others
            stop = stack.enter_context(stop_on_signals())
        if step < plan.steps and not _stale(plan, step, progress):
            say("compiling the training (about a minute the first time)")
            with promising("compiling cannot be interrupted: stopping after it, with a checkpoint"):
                advance, compile_seconds = _compile(learner, plan.meta_batch, mesh, (state, *inputs))
        stopped = stack.enter_context(stop_on_signals()) if stop is None else stop
        while step < plan.steps:
            if _stale(plan, step, progress):
                reason = "patience"
                break
            count, signal, late = _agree(
                _count(outputs, step, seconds_a_step), stopped(), time.monotonic() > deadline
            )
            if signal or late:
                reason = "signal" if signal else "time"
                break
            start_time = time.monotonic()
            state, measured, finite = advance(state, *inputs, np.int32(count))
            measured, finite = jax.device_get((measured, finite))
            seconds = time.monotonic() - start_time
            check_steps(measured, finite, step, count, checkpoints, allow=plan.allow_nonfinite)
            step += count
            progress = _add_steps(progress, measured, count, seconds)
            if seconds_a_step is None:  # a sign of life, and how long compiling took
                outputs.show(_line(step, progress, plan.meta_batch) | {"compile_seconds": compile_seconds})
            else:
                pace = pace._replace(steps=pace.steps + count, seconds=pace.seconds + seconds)
            seconds_a_step = seconds / count
            progress, pace = _between(outputs, state, step, progress, pace)
        with promising("stopping once the checkpoint is written"):
            if checkpoints is not None and checkpoints.latest_step() != step:
                checkpoints.save(step, state, _as_json(progress))
                checkpoints.wait()
        if reason == "done":  # a signal may have come during the last dispatch or validation
            _, signal, _ = _agree(0, stopped(), False)
            reason = "signal" if signal else "done"
    rate = step * plan.meta_batch / progress.seconds if progress.seconds else 0.0
    return Outcome(state, step, reason, signal, progress.best, progress.seconds, compile_seconds, rate)


def _compile(
    learner: Learner, meta_batch: int, mesh: Mesh, arguments: tuple[LearnerState, PyTree, Key]
) -> tuple[Callable[..., Any], float]:
    """Compile the program of a dispatch; also return the seconds that this took.

    `advance(state, sampler, key, count)` takes `count` steps, at most BUFFER, and returns the state, the
    metrics of each step [BUFFER, ...] and the result of `all_finite`. The number of steps is an argument, so
    that there is one program and the numbers do not depend on the lengths of the dispatches.
    """

    def one_step(
        state: LearnerState, sampler: Callable[[Key], Task], key: Key
    ) -> tuple[LearnerState, Metrics]:
        return learner.step(state, shard_tasks(sample_tasks(sampler, key, state.step, meta_batch), mesh))

    def advance(
        state: LearnerState, sampler: Callable[[Key], Task], key: Key, count: Array
    ) -> tuple[LearnerState, Metrics, dict[str, Array]]:
        def body(index: Array, carry: tuple[LearnerState, Metrics]) -> tuple[LearnerState, Metrics]:
            state, buffers = carry
            state, metrics = one_step(state, sampler, key)
            write = functools.partial(lax.dynamic_update_index_in_dim, index=index, axis=0)
            return state, jax.tree.map(write, buffers, metrics)

        shapes = jax.eval_shape(one_step, state, sampler, key)[1]
        buffers = jax.tree.map(lambda leaf: jnp.zeros((BUFFER, *leaf.shape), leaf.dtype), shapes)
        state, buffers = lax.fori_loop(0, count, body, (state, buffers))
        return state, buffers, all_finite(state)

    start_time = time.monotonic()
    program = jax.jit(advance, donate_argnums=0, out_shardings=replicated(mesh))
    compiled = program.lower(*arguments, np.int32(0)).compile()
    return compiled, time.monotonic() - start_time


def _between(
    outputs: _Outputs, state: LearnerState, step: int, progress: Progress, pace: _Pace
) -> tuple[Progress, _Pace]:
    """Log, validate and write a checkpoint if they are due at `step`."""
    plan, checkpoints = outputs.plan, outputs.checkpoints
    if step % plan.log_every == 0 or step == plan.steps:
        outputs.emit(_line(step, progress, plan.meta_batch) | outputs.numbers(state), pace)
    if step % plan.log_every == 0:
        # The line of a last, shorter window leaves the window as it is, for a run that is prolonged.
        progress = progress._replace(window=Window())
    validate = outputs.validate
    if validate and plan.eval_every and (step % plan.eval_every == 0 or step == plan.steps):
        if not pace.validations:
            outputs.say("validating (compiles the first time)")
        start_time = time.monotonic()
        with promising("stopping after this validation, with a checkpoint"):
            metrics = dict(validate(state))
        seconds = time.monotonic() - start_time
        pace = pace._replace(validations=(*pace.validations, seconds))
        if outputs.select[0] not in metrics:
            raise ValueError(
                f"fit: validation has no metric {outputs.select[0]!r}; it has {', '.join(sorted(metrics))}"
            )
        if not plan.allow_nonfinite:
            check_validation(metrics, step, checkpoints)
        outputs.emit({"step": step, "split": "validation", **_loggable(metrics)}, pace)
        progress = progress._replace(best=_better(step, metrics, progress.best, outputs.select))
        if step % plan.eval_every == 0:
            progress = progress._replace(regular=progress.best)
    new_best = step in best_steps(progress.best)
    if checkpoints is not None and (step % plan.checkpoint_every == 0 or new_best):
        checkpoints.save(step, state, _as_json(progress))
    return progress, pace


def _time_left(outputs: _Outputs, step: int, pace: _Pace) -> dict[str, Any]:
    """Estimate the seconds from `step`, whose validation is to come, until the end of the test, and name what
    they do not count; {} before anything has been measured."""
    plan, every = outputs.plan, outputs.plan.eval_every if outputs.validate else 0
    if not pace.steps:
        return {}
    last = plan.last_step or plan.steps
    seconds = min(pace.seconds / pace.steps * (last - step), max(0.0, outputs.deadline - time.monotonic()))
    validations = last // every - (step - 1) // every + bool(last % every) if every else 0
    if pace.validations:
        fastest = min(pace.validations)
        seconds += fastest * (validations + plan.test_validations)
        if plan.test_validations:  # which compiles as the first validation did
            seconds += pace.validations[0] - fastest
        return {"left": seconds, "uncounted": "", "at_most": len(pace.validations) == 1}
    uncounted = ["validations"] * bool(validations) + ["test"] * bool(plan.test_validations)
    return {"left": seconds, "uncounted": " and ".join(uncounted)}


def _silent(text: str) -> None:
    pass


def _count(outputs: _Outputs, step: int, pace: float | None) -> int:
    """Count the steps of the next dispatch: `dispatch_seconds` at `pace` seconds a step, up to a boundary."""
    plan = outputs.plan
    every = [plan.log_every, plan.checkpoint_every, plan.eval_every if outputs.validate else 0]
    most = min([BUFFER, plan.steps - step, *(period - step % period for period in every if period)])
    return 1 if pace is None else max(1, min(most, int(plan.dispatch_seconds / pace)))


def _agree(count: int, signal: int | None, late: bool) -> tuple[int, int | None, bool]:
    """Agree on the next action of all processes: clocks and signals may differ, their programs must not."""
    if jax.process_count() == 1:
        return count, signal, late
    from jax.experimental.multihost_utils import process_allgather

    votes = np.asarray(process_allgather(np.array([count, signal or 0, late], np.int32)))
    return int(votes[:, 0].min()), int(votes[:, 1].max()) or None, bool(votes[:, 2].any())


def _stale(plan: Plan, step: int, progress: Progress) -> bool:
    """Test if more than `patience` validations have passed without improvement."""
    best = best_steps(progress.best)
    if plan.patience is None or not plan.eval_every or not best:
        return False
    return (step - max(best)) // plan.eval_every > plan.patience


def _deadline(plan: Plan) -> float:
    limit = math.inf if plan.max_minutes is None else time.monotonic() + 60 * plan.max_minutes
    return limit if plan.deadline is None else min(limit, plan.deadline)


def _resume(
    state: LearnerState, checkpoints: Checkpoints | None, mesh: Mesh, steps: int
) -> tuple[LearnerState, Progress]:
    """Load the state to start from, in buffers of its own that may be donated."""
    state, progress = replicate(state, mesh), Progress()
    restored = None if checkpoints is None else checkpoints.restore(state)
    if restored is not None:
        step, state, meta = restored
        best = meta["best"] if step >= steps else meta["regular"]
        progress = Progress(meta["seconds"], best, meta["regular"], Window(**meta["window"]))
    return jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=replicated(mesh))(
        state
    ), progress


def _as_json(progress: Progress) -> dict[str, Any]:
    window = progress.window._asdict() | {"sums": dict(progress.window.sums)}
    return progress._asdict() | {"window": window}


def _as_pytree(sampler: Callable[[Key], Task]) -> Callable[[Key], Task]:
    """Turn a bare function into a pytree without leaves."""
    return jax.tree_util.Partial(sampler) if jax.tree.leaves(sampler) == [sampler] else sampler


def _add_steps(
    progress: Progress, measured: Mapping[str, np.ndarray], count: int, seconds: float
) -> Progress:
    """Add `count` steps to the window, one by one, so that the sums do not depend on the dispatches."""
    window, sums = progress.window, dict(progress.window.sums)
    for name, values in measured.items():
        if not name.endswith("_ok"):
            for value in _finite_mean(values.reshape(BUFFER, -1)[:count], axis=1).tolist():
                sums[name] = sums.get(name, 0.0) + value
    window = Window(window.steps + count, window.seconds + seconds, sums)
    return progress._replace(seconds=progress.seconds + seconds, window=window)


def _line(step: int, progress: Progress, meta_batch: int) -> dict[str, Any]:
    """Make a line of the log: means over the window and over tasks, without metrics that are not finite."""
    window = progress.window
    means = {name: total / window.steps for name, total in window.sums.items() if math.isfinite(total)}
    rate = window.steps * meta_batch / window.seconds
    clock = {"seconds": round(progress.seconds, 3), "tasks_per_second": round(rate, 3)}
    return {"step": step, "split": "train", **means, **clock}


def _better(
    step: int, metrics: Mapping[str, Any], best: Mapping[str, Any] | None, select: tuple[str, str]
) -> dict[str, Any]:
    """Update the best so far: {"step", "metrics"} of numbers, or of lists with an entry for each seed."""
    name, direction = select
    now, so_far = np.asarray(metrics[name]), np.asarray(np.nan if best is None else best["metrics"][name])
    better = np.isnan(so_far) | (now > so_far if direction == "max" else now < so_far)

    def update(now: Any, before: Any) -> Any:
        return np.where(better, now, np.asarray(now) if best is None else before).tolist()

    before = best or {"step": None, "metrics": dict.fromkeys(metrics)}
    values = {metric: update(value, before["metrics"][metric]) for metric, value in metrics.items()}
    return {"step": update(step, before["step"]), "metrics": values}


def _loggable(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Format a validation for the log: the mean over the finite seeds, and under <metric>_by_seed each seed's
    value if there are several."""
    means = {name: float(_finite_mean(value)) for name, value in metrics.items()}
    by_seed = {f"{name}_by_seed": np.asarray(value) for name, value in metrics.items() if np.ndim(value)}
    return means | {name: value.tolist() for name, value in by_seed.items()}


def _finite_mean(values: Any, axis: int | None = None) -> np.ndarray:
    """Average the finite values; NaN if there are none."""
    mean = np.ma.masked_invalid(np.asarray(values, np.float64)).mean(axis)
    return np.ma.filled(mean, np.nan)


def _check(outputs: _Outputs) -> None:
    for name in ("meta_batch", "log_every", "checkpoint_every"):
        if getattr(outputs.plan, name) < 1:
            raise ValueError(f"fit: {name}={getattr(outputs.plan, name)}; expected at least 1")
    if outputs.plan.eval_every < 0:
        raise ValueError(f"fit: eval_every={outputs.plan.eval_every}; expected 0 (never) or more")
    if outputs.select[1] not in ("max", "min"):
        raise ValueError(f"fit: select={outputs.select}; expected (metric, 'max') or (metric, 'min')")
