"""The one runner: identity, workdir, resuming, signals, results and figures, for episodes and for streams."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.errors import UsageError, usage_errors
from experiments.figures import draw_episode, draw_run, draw_stream
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
    make_workdir,
    provenance,
    run_identity,
    strict,
    write_arrays,
    write_json,
)
from jmeta.data.source import Dataset, Sampler
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.evaluate import evaluate
from jmeta.outer.finite import NonFiniteError
from jmeta.outer.load import build_learner
from jmeta.outer.loop import Outcome, Plan, fit
from jmeta.outer.mesh import replicate, start_distributed, task_mesh
from jmeta.outer.metrics_log import MetricsLog, read_metrics
from jmeta.outer.seeds import take_seed
from jmeta.report.published import row_for
from jmeta.types import Learner, LearnerState, PyTree, Task

# Validation and test tasks are the same for every seed, so that runs compare task by task.
VALIDATION_SEED, TEST_SEED = 1, 2
Arrays = Mapping[str, np.ndarray]


def start(experiment: Experiment, settings: Settings) -> int:
    """Start a run, or print the results of one that has finished before; the exit status."""
    start_time = time.monotonic()
    identity, workdir = run_identity(experiment, settings), default_workdir(experiment, settings)
    with usage_errors():
        _set_up(settings.get("distributed"), settings.get("precision", "float32"))
        check_init_from(settings.get("init_from"))
        make_workdir(workdir)
    steps = settings.get("steps")
    steps = 0 if settings.get("eval_only") else steps
    results = finished_results(workdir, identity, steps)
    if results:
        say(f"finished before, in {workdir}")
        print_results(results)
        return 0
    minutes = settings.get("max_minutes")
    deadline = math.inf if minutes is None else start_time + 60 * minutes
    return experiment.main(Run(settings, experiment, workdir, identity, deadline))


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
        learned: Callable[[LearnerState], dict[str, float]] = lambda state: {},
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
          learned: reads numbers for the results from the learned state.
          task_seed: draws the training tasks, if they are to be the same for every --seed.
          curriculum: samplers to begin training with, each with the outer update at which it ends.
          initial: a flag that names something learned before, and `(meta) -> meta`, which puts it into fresh
            parameters.
          validation_tasks, eval_tasks: how many there are, if no flag says.
          facts: further facts that decide the test tasks.
        """
        mesh = task_mesh()
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
        config = {
            "spec": spec,
            "input": {"shape": source.info.shape, "dtype": "float32"},
            "seeds": self._seeds(),
            "tasks": facts_of_test_tasks(self.experiment.flags, self.settings, self.identity, source.info)
            | dict(facts),
        }
        with self.open_checkpoints() as checkpoints:
            checkpoints.check_identity()
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
                )
            if outcome.reason == "signal":
                say(f"stopped at step {outcome.step}; the same command goes on from {self.workdir}")
                return 128 + outcome.signal
            state = checkpoints.restore_best(outcome.state) if outcome.best else outcome.state
        tasks = eval_tasks or self.settings.eval_tasks
        values = self._test(learner, state, test, tasks)
        if jax.process_index() == 0:
            first = _on_host(take_seed(state, 0) if self._seeds() else state)
            evaluation = {"split": "test", "tasks": tasks, "norm": self.settings.get("norm")}
            results = self._results(
                outcome.step,
                outcome.seconds,
                outcome.compile_seconds,
                outcome.tasks_per_second,
                eval=evaluation | summarize_tasks(values, self._seeds()),
                best=outcome.best,
                learned=learned(first),
                published=published and row_for(**published),
            )

            def draw(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
                draw_run(folder, lines, values)
                if callable(test):
                    task = draw_task(jax.device_get(test), jax.random.key(TEST_SEED))
                    draw_episode(folder, adapter, first, task)

            self._conclude(results, values, draw)
        return 0

    def begin_stream(self, steps: int, *sources: Dataset) -> None:
        """Write config.json of a stream of `steps` batches, unless the folder is that of another run."""
        with self.open_checkpoints() as checkpoints:
            checkpoints.check_identity()
            self._check_not_past(checkpoints.latest_step(), steps)
        self._write_config(steps, {}, *sources)

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
          evaluation: "split", number of "tasks" of a trial and "norm", beside the metrics.
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
            eval={**evaluation, "metrics": best.metrics, "seeds": best.seeds},
            grid=best.grid if self.settings.grid else None,
            learned=learned,
            published=published and row_for(**published),
            **fields,
        )

        def draw(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
            lines = [restrict_line(line, best.trials) for line in lines]
            draw_stream(folder, lines, arrays, domains)

        self._conclude(results, arrays, draw)
        return 0

    def _seeds(self) -> int | None:
        """Return the number of seeds side by side, None for a run of one."""
        seeds = self.settings.get("num_seeds", 1)
        return seeds if seeds > 1 else None

    @contextlib.contextmanager
    def open_checkpoints(self, folder: Path | None = None) -> Iterator[Checkpoints]:
        """Open the checkpoints of the run, or those in a `folder` below it."""
        place = (folder or self.workdir) / "checkpoints"
        facts = {"git commit": git_commit()}
        with contextlib.closing(Checkpoints(place, self.identity, surroundings=facts)) as checkpoints:
            yield checkpoints

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
    ) -> Outcome:
        """Train through the `stages`, each a sampler with the outer update at which it ends."""
        settings = self.settings
        self._check_not_past(checkpoints.latest_step(), settings.steps)

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
            "run": {**self._summary(), **self.settings.take("backbone", "norm")},
            "tasks": None,
            **facts,
            "dataset": datasets[0] if len(datasets) == 1 else datasets,
            "words": distinguishing_words(self.experiment.flags, self.settings),
            "device": describe_device(),
            **provenance(),
        }
        write_json(self.workdir / "config.json", config)

    def _summary(self) -> dict[str, Any]:
        """Say who runs on what; None for a flag that this entry point does not have."""
        settings = self.settings
        return {
            "experiment": self.experiment.name,
            "algorithm": settings.get("algorithm") or self.experiment.name,
            **{name: settings.get(name) for name in ("preset", "dataset", "way", "shot", "seed")},
        }

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

    def _conclude(self, results: Mapping[str, Any], values: Arrays, draw: Callable[..., None]) -> None:
        """Write eval.npz, the figures and results.json, and print the results.

        `draw(folder, lines)` draws into a folder, given the lines of the log.
        """
        write_arrays(self.workdir / "eval.npz", values)
        folder = self.workdir / "figures"
        try:
            folder.mkdir(exist_ok=True)
            draw(folder, read_metrics(self.workdir / "metrics.jsonl"))
        except (OSError, ValueError, RuntimeError) as error:  # a figure must not cost a run its results
            say(f"no figures: {error}")
        write_json(self.workdir / "results.json", results)
        say(f"figures in {folder}, results in {self.workdir / 'results.json'}")
        print_results(results)


def print_results(results: Mapping[str, Any]) -> None:
    """Print results as the one line on standard output, once whatever the number of processes."""
    if jax.process_index() == 0:
        print(json.dumps(strict(results)))


def say(text: str) -> None:
    """Print a line for people, once whatever the number of processes."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr)


def _set_up(distributed: bool | None, precision: str) -> None:
    if distributed:
        start_distributed()
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
