"""The skeleton of a training run: compose, train or resume, test, write the results."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import UsageError, default_workdir, identity, strict, usage_errors, write_json
from experiments.workdir import finished_results, git_commit, make_workdir, provenance, say, write_arrays
from jmeta.data.source import Dataset
from jmeta.metrics import summarise
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.evaluate import evaluate
from jmeta.outer.load import build, load_whole, read_recipe
from jmeta.outer.loop import NonFiniteError, Outcome, Plan, fit
from jmeta.outer.mesh import replicate, start_distributed, task_mesh
from jmeta.outer.metrics_log import MetricsLog, read_metrics
from jmeta.outer.play import predict
from jmeta.outer.seeds import seed_keys, take_seed
from jmeta.report import figures
from jmeta.types import Learner, LearnerState, PyTree, Task

# Validation and test tasks are the same for every seed, so that runs compare task by task.
VALIDATION_SEED, TEST_SEED = 1, 2


class Composition(NamedTuple):
    """What an experiment makes of its flags.

    `recipe`: see `jmeta.outer.load.build`; `dataset` and its samplers of tasks (`validation` may be None, and
    it and `test` may be the tasks themselves, see `jmeta.evaluate`);
    `measure`: the metric that chooses the best checkpoint, and "max" or "min";
    `learned(state) -> {name: number}` joins the results; `published`: the paper's row or None; `task_seed`
    draws the training tasks, where they are to be the same for every `--seed`; `curriculum`: samplers to
    begin training with, each with the outer update at which it ends; `start`: the flag that says
    where something was learned before, and `(meta) -> meta`, which puts it into fresh parameters.
    """

    recipe: dict[str, Any]
    dataset: Dataset
    train: Callable[..., Task]
    validation: Callable[..., Task] | Task | None
    test: Callable[..., Task] | Task
    measure: tuple[str, str] = ("accuracy", "max")
    learned: Callable[[LearnerState], dict[str, float]] = lambda state: {}
    published: dict[str, Any] | None = None
    task_seed: int | None = None
    curriculum: tuple[tuple[int, Callable[..., Task]], ...] = ()
    start: tuple[str, Callable[[PyTree], PyTree]] | None = None


def run(name: str, settings: SimpleNamespace, compose: Callable[[SimpleNamespace], Composition]) -> int:
    """Run an experiment to its results.json, or as far as its budget or a signal lets it; the exit status."""
    begun = time.monotonic()
    workdir, identified = default_workdir(name, settings), identity(name, settings)
    with usage_errors():
        _set_up(settings)
        _check_paths(settings, workdir)
        finished = finished_results(workdir, identified, planned_steps(settings))
        if finished:
            say(f"finished before, in {workdir}")
            if jax.process_index() == 0:
                print(json.dumps(finished))
            return 0
        mesh = task_mesh()
        made = compose(settings)
        adapter, learner = build(made.recipe, mesh)
        made = made._replace(**_placed(made, mesh))
        state = _initial_state(learner, made, settings, mesh)
    around = {"git commit": git_commit()}
    with contextlib.closing(
        Checkpoints(workdir / "checkpoints", identified, surroundings=around)
    ) as checkpoints:
        checkpoints.check_identity()
        if jax.process_index() == 0:
            write_json(workdir / "config.json", _config(settings, identified, made))
        if settings.eval_only:
            outcome = Outcome(state, 0, "done", None, None, 0.0, 0.0, 0.0)
            checkpoints.save(0, state, {})
        else:
            limit = begun + 60 * (math.inf if settings.max_minutes is None else settings.max_minutes)
            outcome = _train(learner, made, settings, state, checkpoints, workdir, mesh, limit)
        if outcome.reason == "signal":
            say(f"stopped at step {outcome.step}; the same command goes on from {workdir}")
            return 128 + outcome.signal
        state = checkpoints.restore_best(outcome.state) if outcome.best else outcome.state
    values = _test(learner, state, made, settings)
    if jax.process_index() == 0:
        local = _on_host(take_seed(state, 0) if "seeds" in made.recipe else state)
        results = strict(_results(name, settings, outcome, values, made, local))
        write_arrays(workdir / "eval.npz", values)
        try:
            _write_figures(adapter, local, made, workdir, values)
        except (OSError, ValueError, RuntimeError) as error:  # a figure must not cost a run its results
            say(f"no figures: {error}")
        write_json(workdir / "results.json", results)
        say(f"figures in {workdir / 'figures'}, results in {workdir / 'results.json'}")
        print(json.dumps(results))
    return 0


def _train(
    learner: Learner,
    made: Composition,
    settings: SimpleNamespace,
    state: LearnerState,
    checkpoints: Checkpoints,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    deadline: float,
) -> Outcome:
    resumed = checkpoints.latest_step()
    if resumed is not None and resumed > settings.steps:
        raise UsageError(
            f"{workdir} holds a checkpoint of step {resumed}, past --steps={settings.steps}; "
            "ask for more steps or give another --workdir"
        )

    def validate(state: LearnerState) -> dict[str, float]:
        values = evaluate(
            learner,
            state,
            made.validation,
            num_tasks=settings.validation_tasks,
            key=jax.random.key(VALIDATION_SEED),
        )
        return {metric: value.mean(0) for metric, value in values.items()}  # of seeds side by side: [seed]

    plan = Plan(
        steps=settings.steps,
        meta_batch=settings.meta_batch,
        log_every=settings.log_every,
        eval_every=settings.eval_every if made.validation else 0,
        checkpoint_every=settings.checkpoint_every,
        deadline=deadline,
        allow_nonfinite=getattr(settings, "skip_nonfinite", False),
    )
    compile_seconds = 0.0
    with contextlib.closing(MetricsLog(workdir)) as log:
        for until, sampler in [*made.curriculum, (settings.steps, made.train)]:
            outcome = fit(
                learner,
                sampler,
                state,
                plan._replace(steps=min(until, settings.steps)),
                key=jax.random.fold_in(jax.random.key(made.task_seed or settings.seed), 1),
                validate=validate,
                select=made.measure,
                checkpoints=checkpoints,
                log=log,
                mesh=mesh,
            )
            state, compile_seconds = outcome.state, compile_seconds + outcome.compile_seconds
            if outcome.reason != "done" or outcome.step == settings.steps:
                break
    return outcome._replace(compile_seconds=compile_seconds)


def _test(
    learner: Learner, state: LearnerState, made: Composition, settings: SimpleNamespace
) -> dict[str, np.ndarray]:
    """Per-task metrics of the test tasks. Raises NonFiniteError where one is not finite, unless the flags
    leave such updates out of training."""
    values = evaluate(learner, state, made.test, num_tasks=settings.eval_tasks, key=jax.random.key(TEST_SEED))
    for name, value in values.items():
        bad = ~value.astype(bool) if name.endswith("_ok") else ~np.isfinite(value)
        if bad.any() and not getattr(settings, "skip_nonfinite", False):
            task, *seed = np.argwhere(bad)[0].tolist()
            where = f"task {task}" + (f", seed {seed[0]}" if seed else "")
            horizon = f" (horizon {values['horizon'][task]:.4g})" if "horizon" in values else ""
            raise NonFiniteError(
                f"test: {name} is {value[task, *seed]} on {int(bad.sum())} of {bad.size} tasks, "
                f"first on {where}{horizon}"
            )
    return values


def _set_up(settings: SimpleNamespace) -> None:
    if settings.distributed:
        start_distributed()
    if settings.precision != "float32":
        if jax.default_backend() == "cpu":
            raise UsageError(f"--precision={settings.precision} has no effect on a CPU; leave it out")
        jax.config.update("jax_default_matmul_precision", settings.precision)


def _check_paths(settings: SimpleNamespace, workdir: Path) -> None:
    """What a path can spoil, before anything is loaded or compiled."""
    if settings.init_from and not (Path(settings.init_from) / "config.json").is_file():
        raise UsageError(f"--init_from={settings.init_from}: no config.json; give the workdir of a run")
    make_workdir(workdir)


def _on_host(state: LearnerState) -> LearnerState:
    """The learned state as arrays of this process alone."""
    meta, model_state = jax.device_get((state.meta, state.model_state))
    return state._replace(
        step=np.asarray(state.step), meta=meta, model_state=model_state, opt=None, key=jax.random.key(0)
    )


def _placed(made: Composition, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    samplers = {name: getattr(made, name) for name in ("train", "validation", "test")}
    placed = {name: sampler and replicate(sampler, mesh) for name, sampler in samplers.items()}
    return placed | {"curriculum": tuple((until, replicate(stage, mesh)) for until, stage in made.curriculum)}


@jax.jit
def _draw(sampler: Callable[..., Task], key: jax.Array) -> Task:
    return sampler(key)


def _initial_state(
    learner: Learner, made: Composition, settings: SimpleNamespace, mesh: jax.sharding.Mesh
) -> LearnerState:
    """A checked fresh state, with the learned parameters of --init_from where it is given."""
    key = jax.random.key(settings.seed)
    task = _draw(made.train, key)
    task = jax.tree.map(np.asarray, jax.device_get(task))
    seeds = made.recipe.get("seeds")
    state = jax.jit(lambda key: learner.init(key, task))(seed_keys(settings.seed, seeds) if seeds else key)
    origin, learned = f"--init_from={settings.init_from}", {}
    if settings.init_from:
        _check_scale(origin, read_recipe(settings.init_from), made.recipe)
        _, source, _ = load_whole(settings.init_from)
        learned = {"meta": source.meta, "model_state": source.model_state}
    elif made.start is not None:
        origin, put = made.start
        learned = {"meta": put(state.meta)}
    for name, value in learned.items():
        _check_fits(origin, getattr(state, name), value)
    state = state._replace(**jax.device_get(learned))
    return replicate(state, mesh)


def _check_scale(origin: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    scaled = ["std" in recipe["input"] for recipe in (theirs, ours)]
    if scaled[0] != scaled[1]:
        give = "give --standardise" if scaled[0] else "leave --standardise out"
        raise UsageError(
            f"{origin}: that run saw {'standardised images' if scaled[0] else 'images as they are'}; {give}"
        )


def _check_fits(origin: str, ours: PyTree, theirs: PyTree) -> None:
    shapes = [
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (ours, theirs)
    ]
    for path in sorted(shapes[0].keys() | shapes[1].keys()):
        mine, other = shapes[0].get(path), shapes[1].get(path)
        if mine != other:
            raise UsageError(
                f"{origin}: {path} has shape {other} there and {mine} here; "
                "give the flags of the network and the ways that run had"
            )


def planned_steps(settings: SimpleNamespace) -> int:
    """Outer updates of the whole run."""
    return 0 if settings.eval_only else settings.steps


def _config(settings: SimpleNamespace, identified: dict[str, Any], made: Composition) -> dict[str, Any]:
    return {
        "flags": vars(settings),
        "identity": identified,
        "steps": planned_steps(settings),
        "recipe": made.recipe,
        "dataset": made.dataset.info._asdict(),
        **provenance(),
    }


def _results(
    name: str,
    settings: SimpleNamespace,
    outcome: Outcome,
    values: dict[str, np.ndarray],
    made: Composition,
    state: LearnerState,
) -> dict[str, Any]:
    reported = {metric: value for metric, value in values.items() if not metric.endswith("_ok")}
    by_seed = "seeds" in made.recipe
    get = vars(settings).get
    return {
        "experiment": name,
        "algorithm": get("algorithm") or name,
        "preset": get("preset"),
        "dataset": get("dataset"),
        "way": get("way"),
        "shot": get("shot"),
        "seed": get("seed"),
        "steps": outcome.step,
        "train": {
            "seconds": round(outcome.seconds, 3),
            "compile_seconds": round(outcome.compile_seconds, 3),
            "tasks_per_second": round(outcome.tasks_per_second, 3),
        },
        "eval": {
            "split": "test",
            "tasks": settings.eval_tasks,
            "norm": get("norm"),
            # Over tasks; of seeds side by side, over each seed's mean over the tasks.
            "metrics": {
                metric: summarise(value.mean(0) if by_seed else value)._asdict()
                for metric, value in reported.items()
            },
            "seeds": {metric: _by_seed(value) for metric, value in reported.items()} if by_seed else None,
            "not_finite": {
                metric: np.count_nonzero(~np.isfinite(value), axis=0).tolist()
                for metric, value in reported.items()
                if not np.isfinite(value).all()
            },
        },
        "best": outcome.best,
        "learned": made.learned(state),
        "published": made.published,
    }


def _by_seed(values: np.ndarray) -> dict[str, Any]:
    """Of [task, seed]: each seed's mean and median over the tasks, and the summary of the medians, for which
    a loss that is not a number is the largest there is."""
    medians = np.median(np.where(np.isnan(values), np.inf, values), axis=0)
    return {
        "mean": values.mean(0).tolist(),
        "median": medians.tolist(),
        "of_medians": summarise(medians)._asdict(),
    }


def _accuracy_by(values: dict[str, np.ndarray], before: str, after: str) -> list[tuple[float, float, float]]:
    """Of the metrics accuracy_<before><number><after>: (number, mean, interval) in percent."""
    found = []
    for name, value in values.items():
        number = name.removeprefix(f"accuracy_{before}").removesuffix(after)
        if name == f"accuracy_{before}{number}{after}" and number.isdecimal():
            summary = summarise(100 * value.reshape(len(value), -1).mean(1))
            found.append((float(number), summary.mean, summary.ci95))
    return found


def _write_figures(
    adapter: Any, state: LearnerState, made: Composition, workdir: Path, values: dict[str, np.ndarray]
) -> None:
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    records = read_metrics(workdir / "metrics.jsonl")
    if records:
        figures.learning_curves(records, folder / "learning_curves.png")
    if any("horizon" in record for record in records):
        figures.horizon_curve(records, folder / "horizon.png")
    for file, before, after, label in (
        ("accuracy_by_shot.png", "", "_shot", "earlier presentations"),
        ("accuracy_by_subtask.png", "subtask_", "", "subtask"),
    ):
        points = _accuracy_by(values, before, after)
        if points:
            curves = {"test": {"accuracy": points}}
            figures.sweep(curves, folder / file, x_label=label, y_label="accuracy (%)")
    if not callable(made.test):  # the whole test set: no episode
        return
    sampler = jax.device_get(made.test)
    task = _draw(sampler, jax.random.key(TEST_SEED))
    if isinstance(task, Task) and task.query.x.ndim == 4:
        outputs = predict(adapter, state, task.support, task.query.x)
        figures.episode(
            task.support.x, task.support.y, task.query.x, task.query.y, np.asarray(outputs.argmax(-1)),
            folder / "episode.png",
        )  # fmt: skip
