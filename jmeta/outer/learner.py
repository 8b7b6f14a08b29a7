"""One step of the outer loop: run a batch of tasks, differentiate their mean loss, update."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jmeta.adapters.plain import plain
from jmeta.inner.recurrent import unroll
from jmeta.memory.readout import logits
from jmeta.outer.check import abstract_outputs, check_labels, check_step, check_task_axis, task_axis_named
from jmeta.outer.episode import outputs_of_task, run_task
from jmeta.outer.estimators import Outcome
from jmeta.outer.mesh import require_on_mesh, require_task_mesh
from jmeta.parts import describe, is_flax
from jmeta.tree import require_floating
from jmeta.types import (
    Adapter,
    Array,
    Batch,
    BatchLoss,
    Key,
    Learner,
    LearnerState,
    Memory,
    Metrics,
    Model,
    PyTree,
    Stream,
    Task,
)

Objective = Callable[..., tuple[Array, Outcome]]


def episodic_objective(
    adapter: Adapter,
    loss: BatchLoss,
    metrics: Callable[[PyTree, Batch], Metrics] | None,
    *,
    train: bool,
) -> Objective:
    """Make the objective of one task, from support to query set.

    It maps `(meta, state, task, key)` to `(query loss, Outcome)`.
    """

    def objective(meta: PyTree, state: PyTree, task: Task, key: Key) -> tuple[Array, Outcome]:
        outputs, state, info, fast = run_task(
            adapter, meta, state, task.support, task.query.x, key, train=train, mask=task.query.mask
        )
        value = loss(outputs, task.query)
        measured = metrics(outputs, task.query) if metrics else {}
        return value, Outcome(state, {"loss": value, **info, **measured}, fast)

    return objective


def stream_objective(
    memory: Memory,
    loss: Callable[[PyTree, Stream], Array],
    metrics: Callable[[PyTree, Stream], Metrics] | None,
    *,
    train: bool,
    remat_every: int | None = None,
    truncate_every: int | None = None,
) -> Objective:
    """Make the objective of one stream, from its first to its last step.

    It maps `(meta, state, stream, key)` to `(loss, Outcome)`.
    """

    def objective(meta: PyTree, state: PyTree, stream: Stream, key: Key) -> tuple[Array, Outcome]:
        outputs, carry, state = unroll(
            memory, meta, state, stream, remat_every=remat_every, truncate_every=truncate_every, train=train,
            key=key if train else None,
        )  # fmt: skip
        value = loss(outputs, stream)
        measured = metrics(outputs, stream) if metrics else {}
        return value, Outcome(state, {"loss": value, **measured}, carry)

    return objective


def learner(
    adapter: Adapter | Memory | Model,
    loss: Callable[[PyTree, Any], Array] | None,
    tx: optax.GradientTransformation,
    *,
    metrics: Callable[[PyTree, Any], Metrics] | None = None,
    test_loss: Callable[[PyTree, Any], Array] | None = None,
    task_grad: Callable[..., Any] | None = None,
    reduce: Literal["mean", "sum"] = "mean",
    mesh: Mesh | None = None,
    chunk: int | None = None,
    remat_every: int | None = None,
    truncate_every: int | None = None,
) -> Learner:
    """Make the outer loop around an adapter, a memory or a plain model.

    Args:
      adapter: the algorithm that adapts to a task; a `Model` is trained directly on the query sets; the tasks
        of a `Memory` are streams.
      loss: `(outputs, query Batch) -> scalar`, the outer objective of one task; for a memory `(outputs,
        Stream) -> scalar`, its own if None.
      tx: the outer optimizer, any optax transformation.
      metrics: `(outputs, query Batch) -> {name: scalar}`, reported beside the loss.
      test_loss: the loss that `evaluate` reports, `loss` if None (which may smooth labels, say).
      task_grad: replaces the gradient of the mean: `(objective, meta, state, task, key) ->
        ((loss, outcome), gradient)`, called per task and then reduced, where `objective(meta, state, task,
        key) -> (loss, outcome)` adapts to the task; for papers that clamp each task's gradient and for outer
        updates that are no gradient. `outcome.fast` is what was adapted, so that Reptile's
        `jax.tree.map(jnp.subtract, meta["params"], outcome.fast.params)` adapts once.
      reduce: "mean" or "sum" of the task losses.
      mesh: shard the tasks over the axis `task` of this mesh (`jmeta.task_mesh()`). A state that lies on one
        device, as a restored one may, is placed on all of them by `jmeta.replicate(state, mesh)`.
      chunk: number of tasks to run at a time, in sequence, to bound memory; the numbers are equal.
      remat_every, truncate_every: for a memory, see `jmeta.unroll`.

    Returns:
      `Learner`: `init(key, x)` with example inputs [example, ...] or, to have the whole step checked, a Task
      or Stream; `step(state, tasks)` and `evaluate(state, tasks, first=0)` with a leading task axis. Metrics
      are per task, [task]; a step adds the scalar `gradient_norm`. A batch of tasks that does not divide over
      the devices or chunks is padded with tasks of weight 0.

    Raises:
      TypeError: for what is no adapter, memory, model or optax transformation.
      ValueError: for an unknown `reduce`, `chunk` or mesh; at `init`, for a task that does not fit together
        and parameters that are not floating arrays; in `step` and `evaluate`, for tasks without the task
        axis, and for concrete labels beyond the outputs. Under jit labels are not looked at: the losses of
        jmeta are NaN then.
    """
    if isinstance(adapter, Model):
        adapter = plain(adapter)
    if not isinstance(adapter, Adapter | Memory):
        wrapper = next(
            (f": jmeta.from_{kind} makes one" for kind in ("linen", "nnx") if is_flax(adapter, kind)), ""
        )
        raise TypeError(
            f"learner: got {describe(adapter)}; expected an Adapter, a Memory or a Model{wrapper}"
        )
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"learner: tx is {describe(tx)}; expected an optax transformation: optax.adam(1e-3)")
    if reduce not in ("mean", "sum"):
        raise ValueError(f"learner: reduce={reduce!r}; expected 'mean' or 'sum'")
    if mesh is not None:
        require_task_mesh("learner", mesh)
    devices = 1 if mesh is None else mesh.shape["task"]
    if chunk is not None and (chunk < 1 or chunk % devices):
        raise ValueError(f"learner: chunk={chunk}; expected a positive multiple of the {devices} device(s)")
    objective: Callable[..., Objective]
    if isinstance(adapter, Memory):
        loss = loss or adapter.loss
        objective = functools.partial(
            stream_objective,
            adapter,
            metrics=metrics,
            remat_every=remat_every,
            truncate_every=truncate_every,
        )
    elif loss is None or remat_every or truncate_every:
        raise ValueError("learner: an adapter needs a loss and has no stream to rematerialize or to truncate")
    else:
        objective = functools.partial(episodic_objective, adapter, metrics=metrics)
    training = objective(loss=loss, train=True)
    testing = objective(loss=test_loss or loss, train=False)
    outputs_in_training, outputs_at_test = (_outputs_of(adapter, train) for train in (True, False))

    def init(key: Key, x: PyTree) -> LearnerState:
        key_init, key_run = jax.random.split(key)
        example = x.support.x if isinstance(x, Task) else x.x if isinstance(x, Stream) else x
        meta, model_state = adapter.init(key_init, example)
        require_floating("learner: the meta-parameter", meta)
        meta, model_state = _strongly_typed((meta, model_state))
        if isinstance(x, Task | Stream):
            check_step(outputs_in_training, training, meta, model_state, x)
        opt = _strongly_typed(tx.init(meta))
        return LearnerState(jnp.zeros((), jnp.int32), meta, model_state, opt, key_run)

    def check(state: LearnerState, tasks: Task, *, train: bool) -> None:
        check_task_axis(tasks)
        if mesh is not None:
            require_on_mesh("learner", state, mesh)
        outputs_of = outputs_in_training if train else outputs_at_test
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tasks)
        check_labels("learner", tasks, lambda: abstract_outputs(outputs_of, *state[1:3], one))

    def gradient(
        state: LearnerState, tasks: Task, keys: Key, weights: Array
    ) -> tuple[tuple[PyTree, PyTree], Metrics]:
        """Differentiate the weighted sum over tasks; also return the model state and each task's metrics."""
        all_tasks = jax.vmap(_without_fast(training), (None, None, 0, 0))

        def total(meta: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
            values, aux = all_tasks(meta, state.model_state, tasks, keys)
            return (values * weights.astype(values.dtype)).sum(), aux

        if task_grad is None:
            (_, (states, measured)), grads = jax.value_and_grad(total, has_aux=True)(state.meta)
        else:
            given = functools.partial(task_grad, training, state.meta, state.model_state)

            def one(task: Task, key: Key) -> tuple[PyTree, PyTree, Metrics]:
                (_, (states, measured, *_)), grads = given(task, key)
                return grads, states, measured

            grads, states, measured = jax.vmap(one)(tasks, keys)
            grads = _weighted(grads, weights)
        return (grads, _weighted(states, weights)), measured

    def step(state: LearnerState, tasks: Task) -> tuple[LearnerState, Metrics]:
        check(state, tasks, train=True)
        # Split the tasks into parts, each with a key and a weight of its own
        count = _count(tasks)
        parts = _parts(tasks, jax.random.fold_in(state.key, state.step), chunk, mesh)
        # Differentiate
        with task_axis_named(training, state, tasks):
            (grads, model_state), measured = _over_parts(functools.partial(gradient, state), parts)
        if reduce == "sum":
            grads = jax.tree.map(lambda g: g * count, grads)
        # Update
        updates, opt = tx.update(grads, state.opt, state.meta)
        measured = _per_task(measured, count, mesh)
        measured["gradient_norm"] = optax.tree.norm(grads)
        meta = optax.apply_updates(state.meta, updates)
        return LearnerState(state.step + 1, meta, model_state, opt, state.key), measured

    def evaluate(state: LearnerState, tasks: Task, first: Array | int = 0) -> Metrics:
        def measure(tasks: Task, keys: Key, weights: Array) -> tuple[tuple, Metrics]:
            all_tasks = jax.vmap(_without_fast(testing), (None, None, 0, 0))
            return (), all_tasks(state.meta, state.model_state, tasks, keys)[1][1]

        check(state, tasks, train=False)
        with task_axis_named(testing, state, tasks):
            _, measured = _over_parts(measure, _parts(tasks, state.key, chunk, mesh, first))
        return _per_task(measured, _count(tasks), mesh)

    return Learner(init, step, evaluate, check)


def _without_fast(objective: Objective) -> Callable[..., tuple[Array, tuple[PyTree, Metrics]]]:
    """Drop the fast weights of an objective, which may be any object, before they meet a transformation."""

    def loss_and_metrics(*arguments: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
        value, outcome = objective(*arguments)
        return value, (outcome.state, outcome.metrics)

    return loss_and_metrics


def _outputs_of(adapter: Adapter | Memory, train: bool) -> Callable[[PyTree, PyTree, PyTree], PyTree]:
    """Make the function from `(meta, state, task)` to the outputs [example, ...] of its query or stream."""
    if isinstance(adapter, Adapter):
        return outputs_of_task(adapter, train)

    def outputs_of(meta: PyTree, state: PyTree, stream: Stream) -> PyTree:
        key = jax.random.key(0) if train else None
        return logits(unroll(adapter, meta, state, stream, train=train, key=key).outputs)

    return outputs_of


def _strongly_typed(tree: PyTree) -> PyTree:
    """Turn leaves into arrays that no step changes to another type, which would compile it anew."""

    def strong(leaf: Any) -> Array:
        known = isinstance(leaf, jax.Array) and not getattr(leaf, "weak_type", False)
        return leaf if known else jnp.asarray(leaf, jnp.result_type(leaf))

    return jax.tree.map(strong, tree)


def _count(tasks: Task) -> int:
    return jax.tree.leaves(tasks)[0].shape[0]


def _parts(
    tasks: Task, key: Key, chunk: int | None, mesh: Mesh | None, first: Array | int = 0
) -> tuple[Task, Key, Array]:
    """Arrange tasks, their keys and weights as [part, task of the part, ...], with padding of weight 0.

    Task i has the key fold_in(key, first + i). The weights sum to 1. A padding task repeats a real one, so
    that it stays finite.
    """
    count = _count(tasks)
    devices = 1 if mesh is None else mesh.shape["task"]
    whole = -(-count // devices) * devices
    unit = min(chunk, whole) if chunk else devices
    total = -(-count // unit) * unit
    index = jnp.arange(total)
    if total > count:
        tasks = jax.tree.map(lambda a: a[index % count], tasks)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + index)
    weights = jnp.where(index < count, 1.0 / count, 0.0)
    shape = (-1, unit) if chunk else (1, total)
    parts = jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), (tasks, keys, weights))
    return parts if mesh is None else _constrained(parts, mesh, PartitionSpec(None, "task"))


def _over_parts(
    measure: Callable[..., tuple[PyTree, Metrics]], parts: tuple[Task, Key, Array]
) -> tuple[PyTree, Metrics]:
    """Call `measure(tasks, keys, weights)` on every part; sum its first results and stack its second ones."""
    first = jax.tree.map(lambda a: a[0], parts)
    if parts[2].shape[0] == 1:
        summed, measured = measure(*first)
        return summed, jax.tree.map(lambda a: a[None], measured)

    def add(summed: PyTree, part: tuple[Task, Key, Array]) -> tuple[PyTree, Metrics]:
        more, measured = measure(*part)
        return jax.tree.map(lambda a, b: a + b if _is_float(a) else jnp.maximum(a, b), summed, more), measured

    shapes = jax.eval_shape(measure, *first)[0]
    return jax.lax.scan(add, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes), parts)


def _per_task(measured: Metrics, count: int, mesh: Mesh | None) -> Metrics:
    """Reshape metrics [part, task, ...] to [task, ...] without padding, replicated over all processes."""
    flat = {name: value.reshape(-1, *value.shape[2:])[:count] for name, value in measured.items()}
    return flat if mesh is None else _constrained(flat, mesh, PartitionSpec())


def _constrained(tree: PyTree, mesh: Mesh, spec: PartitionSpec) -> PyTree:
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, sharding), tree)


def _weighted(tree: PyTree, weights: Array) -> PyTree:
    """Reduce leaves [task, ...]: floats by their weighted sum, integers (counters) by their maximum."""

    def merge(leaf: Array) -> Array:
        return jnp.tensordot(weights.astype(leaf.dtype), leaf, 1) if _is_float(leaf) else leaf.max(0)

    return jax.tree.map(merge, tree)


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
