"""The one runner: identity, workdir, resuming, signals, results and figures, for episodes and for streams."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all

from experiments.cluster import join
from experiments.errors import UsageError, describe_os_error, error_text, remedy, usage_errors
from experiments.figures import draw_episode, draw_regression, draw_run, draw_stream, read_image
from experiments.flags import unused
from experiments.lock import lock
from experiments.occupy import occupy
from experiments.origin import check_init_from, draw_task, read_origin, starting_state
from experiments.parts import Parts, Spec
from experiments.records import describe_device, distinguishing_words, facts_of_test_tasks, summarize_tasks
from experiments.settings import Experiment, Settings
from experiments.streams import StreamState, check_complete, learn_stream, restrict_line
from experiments.trials import Best, Part, Trials
from experiments.workdir import (
    default_workdir,
    finished_results,
    git_commit,
    provenance,
    read_json,
    run_identity,
    strict,
    time_stamp,
    write_arrays,
    write_json,
)
from jmeta import registry
from jmeta.data.source import Dataset, Sampler
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.cluster import wait_for_cause
from jmeta.outer.evaluate import evaluate
from jmeta.outer.finite import NonFiniteError
from jmeta.outer.load import build_learner, spec_of_adapter
from jmeta.outer.loop import Outcome, Plan, fit
from jmeta.outer.mesh import replicate, task_mesh
from jmeta.outer.metrics_log import MetricsLog, read_metrics, write_outcome
from jmeta.outer.progress import announce
from jmeta.outer.seeds import take_seed
from jmeta.outer.signals import end_on_signals, stop_on_signals
from jmeta.report.published import in_fractions, row_for
from jmeta.report.table import markdown_table
from jmeta.types import Learner, LearnerState, PyTree, Task

# Validation and test tasks are the same for every seed, so that runs compare task by task.
VALIDATION_SEED, TEST_SEED = 1, 2
Arrays = Mapping[str, np.ndarray]


@wait_for_cause()
def start(experiment: Experiment, settings: Settings) -> int:
    """Start a run, or print the results of one that has finished before; the exit status."""
    start_time = time.monotonic()
    identity, workdir = run_identity(experiment, settings), default_workdir(experiment, settings)
    with usage_errors():
        if settings.get("distributed"):
            join(experiment.name, settings, workdir)
        _set_up(settings.get("precision", "float32"))
        check_init_from(settings.get("init_from"))
    steps = 0 if settings.get("eval_only") else settings.get("steps")
    results = finished_results(workdir, identity, steps)
    if results:
        say(f"finished before, in {workdir}")
        print_results(results)
        return 0
    minutes = settings.get("max_minutes")
    deadline = math.inf if minutes is None else start_time + 60 * minutes
    with end_on_signals(lambda: _farewell(workdir)), _occupied(workdir, identity), _refusals(workdir):
        return experiment.main(Run(settings, experiment, workdir, identity, deadline))


@contextlib.contextmanager
def _occupied(workdir: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Occupy the folder of a run, see `occupy`: process 0 does, and the others hear if it may."""
    with contextlib.ExitStack() as stack:
        refusal = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(occupy(workdir, identity))
            except UsageError as error:
                refusal = error
        if jax.process_count() > 1 and broadcast_one_to_all(np.int32(refusal is not None)):
            refusal = refusal or UsageError(f"--workdir={workdir}: refused by process 0, which says why")
        if refusal is not None:
            raise refusal
        yield


def _farewell(workdir: Path) -> str:
    """Say how to go on after a signal that ends the process at once."""
    if any(workdir.glob("checkpoints/[0-9]*")) or any(workdir.glob("pretraining/*/checkpoints/[0-9]*")):
        return f"stopped; the same command goes on from the last checkpoint in {workdir}"
    return "stopped before the first checkpoint; the same command starts anew"


@contextlib.contextmanager
def _refusals(workdir: Path) -> Iterator[None]:
    """Turn the refusals of the file system into UsageErrors that say what is whole and what to do."""
    try:
        yield
    except OSError as error:
        steps = [int(path.name) for path in workdir.glob("checkpoints/[0-9]*") if path.name.isdecimal()]
        whole = f"the checkpoint of step {max(steps)} is whole" if steps else "there is no checkpoint yet"
        advice = " and ".join(filter(None, [remedy(error), "give the same command again"]))
        raise UsageError(f"{describe_os_error(error)}; {whole}; {advice}") from error


@dataclass(frozen=True)
class Run(Parts):
    """A run of an `experiment` in a `workdir`; `deadline` by `time.monotonic()`."""

    experiment: Experiment
    workdir: Path
    identity: Mapping[str, Any]
    deadline: float

    def origin(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Read the flags, and the spec of the adapter, of the run that --init_from names."""
        with usage_errors():
            return read_origin(self.settings.init_from)

    def fit_episodes(
        self,
        spec: Spec,
        source: Dataset,
        *,
        train: Sampler,
        validation: Sampler | Task | None,
        test: Sampler | Task,
        measure: tuple[str, str] = ("accuracy", "max"),
        published: Mapping[str, Any] | None = None,
        learned: Callable[[Any, LearnerState], dict[str, float]] = lambda adapter, state: {},
        task_seed: int | None = None,
        curriculum: tuple[tuple[int, Sampler], ...] = (),
        initial: tuple[str, Callable[[PyTree], PyTree]] | None = None,
        validation_tasks: int | None = None,
        eval_tasks: int | None = None,
        facts: Mapping[str, Any] = {},
    ) -> int:
        """Train or resume, test, and write the results; the exit status.

        Args:
          spec: the learner, see `jmeta.outer.load.build_learner`; config.json has it.
          source: the dataset, for its facts.
          train, validation, test: samplers of tasks; validation and test may be the tasks themselves (see
            `jmeta.evaluate`), or there may be no validation.
          measure: the metric that chooses the best checkpoint, and "max" or "min".
          published: the fields of the paper's row, see `row_for`; None if there is none.
          learned: reads numbers for the log and the results, `(adapter or memory, learned state) -> numbers`.
          task_seed: draws the training tasks, if they are to be the same for every --seed.
          curriculum: samplers to begin training with, each with the outer update at which it ends.
          initial: a flag that names something learned before, and `(meta) -> meta`, which puts it into fresh
            parameters.
          validation_tasks, eval_tasks: how many there are, if no flag says.
          facts: further facts that decide the test tasks.
        """
        mesh = task_mesh()
        announce("initializing the network (compiles)")
        with usage_errors():
            adapter, learner = build_learner(spec, mesh)
            train, validation, test = (
                sampler and replicate(sampler, mesh) for sampler in (train, validation, test)
            )
            stages = [(until, replicate(stage, mesh)) for until, stage in curriculum]
            state = replicate(
                starting_state(
                    learner,
                    spec,
                    train,
                    seed=self.settings.seed,
                    seeds=self._seeds(),
                    init_from=self.settings.init_from,
                    initial=initial,
                ),
                mesh,
            )
        announce(f"{self._describe_network(state)} on {_device_text()}")
        config = {
            "spec": spec,
            "input": {"shape": source.info.shape, "dtype": "float32"},
            "seeds": self._seeds(),
            "tasks": facts_of_test_tasks(self.experiment.flags, self.settings, self.identity, source.info)
            | dict(facts),
        }
        tasks = eval_tasks or self.settings.eval_tasks
        with self.open_checkpoints() as checkpoints:
            checkpoints.check_identity()
            if not self.settings.eval_only:
                self._check_not_past(checkpoints.latest_step(), self.settings.steps)
            self._write_config(0 if self.settings.eval_only else self.settings.steps, config, source)
            if self.settings.eval_only:
                outcome = Outcome(state, 0, "done", None, None, 0.0, 0.0, 0.0)
                checkpoints.save(0, state, {})
            else:
                stages = [*stages, (self.settings.steps, train)]
                outcome = self._train(
                    learner,
                    stages,
                    validation,
                    state,
                    checkpoints,
                    mesh,
                    measure,
                    task_seed,
                    validation_tasks or self.settings.get("validation_tasks", 0),
                    tasks,
                    lambda state: learned(adapter, self._first_seed(state)),
                )
            if outcome.reason == "time":
                say(f"the minutes are over at step {outcome.step}")
            if outcome.reason == "signal":
                say(f"stopped at step {outcome.step}; the same command goes on from {self.workdir}")
                return 128 + outcome.signal
            state = checkpoints.restore_best(outcome.state) if outcome.best else outcome.state
        which = (
            f"of {self.settings.init_from}"
            if self.settings.get("eval_only")
            else _describe_tested(outcome.best, int(np.max(jax.device_get(state.step))))
        )
        announce(f"testing {tasks:,} tasks with the parameters {which}")
        values = self._test(learner, state, test, tasks)
        if jax.process_index() == 0:
            first = self._first_seed(state)
            regression = measure[0] == "squared_error"
            evaluation = {"split": "test", "tasks": tasks, **self._network()}
            results = self._results(
                outcome.step,
                outcome.seconds,
                outcome.compile_seconds,
                outcome.tasks_per_second,
                eval=evaluation
                | summarize_tasks(values, self._seeds(), regression=regression)
                | {"selected_on": None},
                best=outcome.best,
                learned=learned(adapter, first),
                published=_published(published),
            )

            def draw(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
                draw_run(folder, lines, values)
                if callable(test):
                    task = draw_task(jax.device_get(test), jax.random.key(TEST_SEED))
                    draw_episode(folder, adapter, first, task)
                    if regression:
                        draw_regression(folder, spec_of_adapter(spec), first, task)

            return self._conclude(results, values, draw)
        return 0

    def begin_stream(self, steps: int, *sources: Dataset) -> None:
        """Write config.json of a stream of `steps` batches, unless the folder is that of another run."""
        with self.open_checkpoints() as checkpoints:
            checkpoints.check_identity()
            self._check_not_past(checkpoints.latest_step(), steps)
        self._write_config(steps, {}, *sources)
        announce(f"{self.settings.algorithm}, {steps} batches, on {_device_text()}")

    def fit_stream(
        self,
        advance: Callable[[PyTree, PyTree, int], Part],
        states: PyTree,
        snapshots: PyTree,
        steps: int,
        trials: Trials,
        *,
        least: int = 1,
    ) -> StreamState:
        """Learn a stream of `steps` batches part by part, or resume it; see `learn_stream`.

        Raises Interrupted if a signal stops it, or if the time is over before the `least` number of batches
        that have results.
        """
        numbers = sum(leaf.size for leaf in jax.tree.leaves(states)) // len(trials.seeds)
        announce(f"{len(trials.seeds)} trials, each with {numbers:,} numbers of parameters and memory")
        with self.open_checkpoints() as checkpoints:
            stream, signal = learn_stream(
                advance,
                StreamState(states, snapshots),
                steps,
                trials=trials,
                checkpoints=checkpoints,
                workdir=self.workdir,
                checkpoint_every=self.settings.checkpoint_every,
                deadline=self.deadline,
            )
        check_complete(stream, signal, self.workdir, least=least)
        return stream

    def report_stream(
        self,
        stream: StreamState,
        best: Best,
        arrays: Arrays,
        *,
        compile_seconds: float,
        evaluation: Mapping[str, Any],
        learned: Mapping[str, float],
        published: Mapping[str, Any] | None,
        domains: Sequence[str] = (),
        **fields: Any,
    ) -> int:
        """Write the results of a stream, at the best point of the grid; the exit status.

        Args:
          stream: the learned stream.
          best: its best point, with the metrics of all points.
          arrays: the content of eval.npz, with the domain of each batch as an index into `domains`, if any.
          compile_seconds: how long the program compiled.
          evaluation: "split", number of "tasks" of a trial, "norm" and "backbone", beside the metrics.
          learned: numbers that were learned.
          published: the fields of the paper's row, see `row_for`; None if there is none.
          **fields: further fields of the results.
        """
        tasks = len(best.grid) * self.settings.num_seeds * evaluation["tasks"]
        results = self._results(
            stream.done,
            stream.seconds,
            compile_seconds,
            tasks / stream.seconds if stream.seconds else None,
            eval={
                **evaluation,
                "metrics": best.metrics,
                "seeds": best.seeds if self.settings.num_seeds > 1 else None,
                "selected_on": "test" if self.settings.grid else None,
            },
            grid=best.grid if self.settings.grid else None,
            learned=learned,
            published=_published(published),
            **fields,
        )

        def draw(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
            lines = [restrict_line(line, best.trials) for line in lines]
            draw_stream(folder, lines, arrays, domains)

        return self._conclude(results, arrays, draw)

    def _seeds(self) -> int | None:
        """Return the number of seeds side by side, None for a run of one."""
        seeds = self.settings.get("num_seeds", 1)
        return seeds if seeds > 1 else None

    @contextlib.contextmanager
    def open_checkpoints(self, folder: Path | None = None) -> Iterator[Checkpoints]:
        """Open the checkpoints of the run, or those in a `folder` below it."""
        place = (folder or self.workdir) / "checkpoints"
        facts = {"git commit": git_commit()}
        with contextlib.ExitStack() as stack:
            if folder is not None and jax.process_index() == 0:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock(folder))
            checkpoints = Checkpoints(place, self.identity, surroundings=facts)
            yield stack.enter_context(contextlib.closing(checkpoints))

    def _train(
        self,
        learner: Learner,
        stages: Sequence[tuple[int, Sampler]],
        validation: Sampler | Task | None,
        state: LearnerState,
        checkpoints: Checkpoints,
        mesh: jax.sharding.Mesh,
        measure: tuple[str, str],
        task_seed: int | None,
        tasks: int,
        test_tasks: int,
        learned: Callable[[LearnerState], dict[str, float]],
    ) -> Outcome:
        """Train through the `stages`, each a sampler with the outer update at which it ends; validate on
        `tasks`, and count the `test_tasks` in the time that is left."""
        settings = self.settings

        def validate(state: LearnerState) -> dict[str, float]:
            key = jax.random.key(VALIDATION_SEED)
            values = evaluate(learner, state, validation, num_tasks=tasks, key=key)
            return {metric: value.mean(0) for metric, value in values.items()}  # of several seeds: [seed]

        plan = Plan(
            steps=settings.steps,
            meta_batch=settings.get("meta_batch", 1),
            log_every=settings.log_every,
            eval_every=settings.eval_every if validation else 0,
            checkpoint_every=settings.checkpoint_every,
            deadline=self.deadline,
            test_validations=test_tasks / max(1, tasks),
            last_step=settings.steps,
            allow_nonfinite=settings.get("skip_nonfinite", False),
        )
        compile_seconds = 0.0
        with contextlib.closing(MetricsLog(self.workdir)) as log:
            for until, sampler in stages:
                outcome = fit(
                    learner,
                    sampler,
                    state,
                    plan._replace(steps=min(until, settings.steps)),
                    key=jax.random.fold_in(jax.random.key(task_seed or settings.seed), 1),
                    validate=validate,
                    select=measure,
                    checkpoints=checkpoints,
                    log=log,
                    learned=learned,
                    mesh=mesh,
                )
                state, compile_seconds = outcome.state, compile_seconds + outcome.compile_seconds
                if outcome.reason != "done" or outcome.step == settings.steps:
                    break
        return outcome._replace(compile_seconds=compile_seconds)

    def _test(self, learner: Learner, state: LearnerState, test: Sampler | Task, tasks: int) -> Arrays:
        """Measure the test tasks, {metric: [task] or [task, seed]}.

        Raises NonFiniteError if a number is not finite, unless such updates are left out of training.
        """
        values = evaluate(learner, state, test, num_tasks=tasks, key=jax.random.key(TEST_SEED))
        for name, value in values.items():
            bad = ~value.astype(bool) if name.endswith("_ok") else ~np.isfinite(value)
            if bad.any() and not self.settings.get("skip_nonfinite", False):
                task, *seed = np.argwhere(bad)[0].tolist()
                place = f"task {task}" + (f", seed {seed[0]}" if seed else "")
                horizon = f" (horizon {values['horizon'][task, *seed]:.4g})" if "horizon" in values else ""
                raise NonFiniteError(
                    f"test: {name} is {value[task, *seed]} on {int(bad.sum())} of {bad.size} tasks, "
                    f"first on {place}{horizon}"
                )
        return values

    def _check_not_past(self, step: int | None, steps: int) -> None:
        """Raise UsageError for a checkpoint that is past the number of steps."""
        if step is not None and step > steps:
            raise UsageError(
                f"{self.workdir} holds a checkpoint of step {step}, past --steps={steps}; "
                "ask for more steps or give another --workdir"
            )

    def _write_config(self, steps: int, facts: Mapping[str, Any], *sources: Dataset) -> None:
        """Write config.json: flags, identity, planned steps, the `facts` to load a run by, and provenance."""
        if jax.process_index() != 0:
            return
        datasets = [source.info._asdict() for source in sources]
        config = {
            "flags": dict(self.settings),
            "identity": self.identity,
            "steps": steps,
            "run": {**self._summary(), **self._network()},
            "tasks": None,
            **facts,
            "dataset": datasets[0] if len(datasets) == 1 else datasets,
            "words": distinguishing_words(self.experiment.flags, self.settings),
            "device": describe_device(),
            **provenance(),
        }
        write_json(self.workdir / "config.json", config)

    def _summary(self) -> dict[str, Any]:
        """Say who runs on what; None for a flag that means nothing here."""
        return {
            "experiment": self.experiment.name,
            "algorithm": self.settings.get("algorithm") or self.experiment.name,
            **self._meaningful("preset", "dataset", "way", "shot", "seed"),
        }

    def _network(self) -> dict[str, Any]:
        """Name the network and the policy of its batch normalization; None if there is none to choose."""
        network = self._meaningful("norm", "backbone")
        algorithm = self.settings.get("algorithm")
        return network | {"backbone": algorithm} if algorithm in registry.MODELS else network

    def _describe_network(self, state: LearnerState) -> str:
        """Describe the network, how much is learned, and by how many seeds."""
        name = self._network()["backbone"] or self.settings.get("algorithm") or self.experiment.name
        seeds = self._seeds()
        count = sum(leaf.size for leaf in jax.tree.leaves(state.meta)) // (seeds or 1)
        return f"{name}, {count:,} parameters" + (f", {seeds} seeds side by side" if seeds else "")

    def _meaningful(self, *names: str) -> dict[str, Any]:
        """Select flags by name; None for one that this entry point does not have, or that means nothing."""
        reasons = unused(self.experiment.flags, self.settings)
        return {name: None if name in reasons else self.settings.get(name) for name in names}

    def _first_seed(self, state: LearnerState) -> LearnerState:
        """Take the learned state of the first seed, in arrays of this process alone."""
        return _on_host(take_seed(state, 0) if self._seeds() else state)

    def _results(
        self, steps: int, seconds: float, compile_seconds: float, rate: float | None, **fields: Any
    ) -> Spec:
        """Compose results.json: who ran on what, how long, and the `fields` "eval", "learned", ..."""
        return {
            **self._summary(),
            "steps": steps,
            "train": {
                "seconds": round(seconds, 3),
                "compile_seconds": round(compile_seconds, 3),
                "tasks_per_second": None if rate is None else round(rate, 3),
            },
            **fields,
        }

    def _conclude(self, results: Mapping[str, Any], values: Arrays, draw: Callable[..., None]) -> int:
        """Write eval.npz, results.json and the figures, and print the results; the exit status.

        `draw(folder, lines)` draws into a folder, given the lines of the log. A signal ends the process after
        that.
        """
        with stop_on_signals("stopping once the results are written") as stopped:
            write_arrays(self.workdir / "eval.npz", values)
            write_json(self.workdir / "results.json", results)
            folder = self.workdir / "figures"
            try:
                announce("drawing the figures")
                folder.mkdir(exist_ok=True)
                draw(folder, read_metrics(self.workdir / "metrics.jsonl"))
                self._add_outcome(results, folder)
            except Exception as error:  # a figure must not cost a run its results
                say(f"no figures: {error_text(error)}")
            config = read_json(self.workdir / "config.json") or {}
            write_json(self.workdir / "config.json", config | {"ended": time_stamp()})
            say(f"figures in {folder}, results in {self.workdir / 'results.json'}")
            print_results(results)
            signal = stopped()
        return 128 + signal if signal else 0

    def _add_outcome(self, results: Mapping[str, Any], folder: Path) -> None:
        """Add the flags, the test's numbers and the figures to the TensorBoard events."""
        metrics = results["eval"]["metrics"]
        flags = markdown_table(
            ("flag", "value"), ((f"--{name}", value) for name, value in self.settings.items())
        )
        write_outcome(
            self.workdir,
            results["steps"],
            numbers={f"test/{name}": metric["mean"] for name, metric in metrics.items()},
            texts={"flags": flags},
            images={f"figures/{path.stem}": read_image(path) for path in sorted(folder.glob("*.png"))},
        )


def _published(fields: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Find the published row of these fields, in fractions; None if there is none."""
    row = row_for(**fields) if fields else None
    return in_fractions(row) if row else None


def _describe_tested(best: Mapping[str, Any] | None, step: int) -> str:
    """Describe the parameters that are tested: those of the best validation, if there is one."""
    if best is None:
        return f"of step {step}"
    several = isinstance(best["step"], list)
    return "of each seed's best validation" if several else f"of step {step}, the best validation"


def _device_text() -> str:
    device = describe_device()
    number = f"{device['count']} x " if device["count"] > 1 else ""
    return f"{number}{device['kind']}"


def print_results(results: Mapping[str, Any]) -> None:
    """Print results as the one line on standard output, once whatever the number of processes."""
    if jax.process_index() == 0:
        print(json.dumps(strict(results)))


def say(text: str) -> None:
    """Print a line for people, once whatever the number of processes."""
    announce(text)


def _set_up(precision: str) -> None:
    if precision != "float32":
        if jax.default_backend() == "cpu":
            raise UsageError(f"--precision={precision} has no effect on a CPU; leave it out")
        jax.config.update("jax_default_matmul_precision", precision)


def _on_host(state: LearnerState) -> LearnerState:
    """Copy the learned state into arrays of this process alone."""
    meta, model_state = jax.device_get((state.meta, state.model_state))
    return state._replace(
        step=np.asarray(state.step), meta=meta, model_state=model_state, opt=None, key=jax.random.key(0)
    )
