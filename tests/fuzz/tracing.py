"""Runs that are composed and traced but not computed: every program is traced, and its results are zeros.

For a process of its own, in which all modules are imported: `trace_only` replaces functions of jax, of the
library and of the experiments for good.
"""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

PyTree = Any


def trace_only() -> None:
    """Let an entry point trace its programs and end with status 0, without results."""
    import experiments.continual
    import experiments.osaka
    import experiments.pretraining
    import experiments.runner as runner
    import jmeta.outer.evaluate as evaluating

    jit, evaluate_batch = jax.jit, evaluating._evaluate_batch
    draw_task = runner.draw_task

    def traced_jit(function: Callable, **options: Any) -> Callable:
        compiled = jit(function, **options)

        def call(*arguments: PyTree) -> PyTree:
            if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
                return compiled(*arguments)
            return zeros(compiled.eval_shape(*arguments))

        call.lower = compiled.lower
        call.traced = compiled
        return call

    def compile_program(program: Any, *arguments: PyTree) -> tuple[Callable, float]:
        result = zeros(program.traced.eval_shape(*arguments))
        return lambda *arguments: result, 0.0

    jax.jit = traced_jit
    evaluating._evaluate_batch = lambda *arguments: zeros(evaluate_batch.eval_shape(*arguments))
    origin = importlib.import_module("experiments.origin")
    origin.draw_task = lambda sampler, key: zeros(draw_task.eval_shape(sampler, key))
    experiments.pretraining.pretrain = pretrain
    experiments.continual.compile_program = experiments.osaka.compile_program = compile_program
    runner.Run.fit_episodes = fit_episodes
    runner.Run.fit_stream = fit_stream
    runner.Run.begin_stream = lambda run, steps, *sources: None
    runner.Run.report_stream = lambda run, *arguments, **fields: 0


def zeros(shapes: PyTree) -> PyTree:
    """Make zeros of these shapes and types, keys included."""

    def make(leaf: Any) -> Any:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(np.zeros((*leaf.shape, 2), np.uint32))
        return np.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(make, shapes)


def fit(learner: Any, sampler: Any, state: PyTree, meta_batch: int) -> PyTree:
    """Trace an outer update; return the state after it."""
    from jmeta.data.episodes import sample_tasks

    def step(state: PyTree, sampler: Any, key: jax.Array) -> PyTree:
        return learner.step(state, sample_tasks(sampler, key, state.step, meta_batch))

    return zeros(jax.eval_shape(step, state, sampler, jax.random.key(0))[0])


def fit_episodes(
    run: Any, spec: Any, source: Any, *, train: Any, validation: Any, test: Any, **options: Any
) -> int:
    """Compose a run as `Run.fit_episodes` does; trace an update of each stage, a validation and the test."""
    from experiments.errors import usage_errors
    from experiments.origin import starting_state
    from jmeta.outer.evaluate import evaluate
    from jmeta.outer.load import build_learner
    from jmeta.outer.mesh import task_mesh

    settings, key = run.settings, jax.random.key(0)
    with usage_errors():
        _, learner = build_learner(spec, task_mesh())
        options_of_start = {"seed": settings.seed, "seeds": run._seeds(), "init_from": settings.init_from}
        state = starting_state(learner, spec, train, **options_of_start, initial=options.get("initial"))
    if not settings.eval_only:
        for sampler in (*(stage for _, stage in options.get("curriculum", ())), train):
            state = fit(learner, sampler, state, settings.get("meta_batch", 1))
        tasks = options.get("validation_tasks") or settings.get("validation_tasks", 0)
        if validation is not None and settings.eval_every:
            evaluate(learner, state, validation, num_tasks=tasks, key=key)
    evaluate(learner, state, test, num_tasks=options.get("eval_tasks") or settings.eval_tasks, key=key)
    return 0


def fit_stream(
    run: Any, advance: Callable, states: PyTree, snapshots: PyTree, steps: int, trials: Any, **_: Any
) -> Any:
    """Trace a part of a stream; the rest of it is as long, and zeros."""
    from experiments.streams import StreamState

    part = advance(states, snapshots, 0)
    return StreamState(part.states, part.snapshots, steps, 1.0, part.records)


def pretrain(run: Any, method: Any, training: Any, validation: Any, folder: Any) -> Any:
    """Compose the pre-training of OSAKA and trace an update and a validation."""
    import jmeta
    from jmeta.outer.evaluate import evaluate
    from jmeta.outer.loop import Outcome
    from jmeta.outer.seeds import seed_keys

    settings = run.settings
    learner = jmeta.learner(method.pretraining, jmeta.cross_entropy, method.tx, metrics=jmeta.accuracy,
                            chunk=settings.meta_batch)  # fmt: skip
    key, example = jax.random.key(0), zeros(jax.eval_shape(training, jax.random.key(0)))
    if not settings.shared_pretraining:
        learner, key = jmeta.vmap_seeds(learner), seed_keys(0, settings.num_seeds)
    state = zeros(jax.eval_shape(lambda key: learner.init(key, example), key))
    state = fit(learner, training, state, settings.meta_batch)
    tasks = {"num_tasks": settings.validation_tasks, "key": jax.random.key(0)}
    values = evaluate(learner, state, validation, **tasks)
    best = {"step": 1, "metrics": {name: value.mean(0) for name, value in values.items()}}
    return Outcome(state, 1, "done", None, best, 0.0, 0.0, 0.0)
