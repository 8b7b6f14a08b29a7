"""A continual learner on a stream: all steps in one scan, and the accuracy on all tasks after each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.bounds import labels_factor, require_within
from jmeta.data.streams.mnist import Images, TaskStream, batch_at, require_fit, test_rows
from jmeta.online.sgd_state import without_memory
from jmeta.types import Array, Context, Key, Metrics, Online, PyTree

# Learners whose update is heavy and rare: `jax.vmap` over seeds would make it at every step, so that
# `jax.lax.map` is faster.
SEQUENTIAL = ("gem",)


def initial_state(learner: Online, images: Images, stream: TaskStream, key: Key) -> PyTree:
    """Initialize the learner's state for batches of the stream's size.

    Raises ValueError if the learner, the images and the stream do not fit together, such as a memory for
    fewer tasks than the stream has.
    """
    require_fit(images, stream)
    batch = batch_at(images, stream, 0, 0)
    state = learner.init(key, batch.x)
    last = Context(stream.rows.shape[0] - 1)
    # Nothing is computed; the number of the last task is concrete, and can be refused.
    jax.eval_shape(lambda state, batch: learner.observe(state, batch, key, context=last), state, batch)
    return state


def observe_task(
    learner: Online,
    images: Images,
    stream: TaskStream,
    state: PyTree,
    task: Array,
    key: Key,
    *,
    steps: Array | None = None,
) -> tuple[PyTree, Metrics]:
    """Observe the batches of one task [] in one scan: all of them, or those numbered `steps` [step].

    Step s of task t has the key fold_in(fold_in(key, t), s). Returns the state and the learner's metrics,
    [step]. Raises ValueError for a concrete task or steps beyond the stream's; traced ones make the loss NaN.
    """
    count = stream.rows.shape[1]
    require_within("observe_task", "task", task, 0, stream.rows.shape[0] - 1, "the tasks of the stream")
    if steps is not None:
        require_within("observe_task", "steps", steps, 0, count - 1, "the steps of a task of the stream")
    key = jax.random.fold_in(key, task)
    steps = jnp.arange(count, dtype=jnp.int32) if steps is None else steps

    def step(state: PyTree, index: Array) -> tuple[PyTree, Metrics]:
        batch = batch_at(images, stream, task, index)
        context = Context(task, stream.first_pass[index])
        return learner.observe(state, batch, jax.random.fold_in(key, index), context=context)

    return jax.lax.scan(step, state, steps)


def observe_stream(
    learner: Online,
    images: Images,
    stream: TaskStream,
    state: PyTree,
    key: Key,
    *,
    snapshot: Callable[[PyTree], PyTree] = without_memory,
) -> tuple[PyTree, PyTree, Metrics]:
    """Observe the whole stream in one scan, with a `snapshot` of the state after each task.

    Returns the state, the snapshots with a leading axis [task], and the learner's metrics, [task, step].
    """

    def one_task(state: PyTree, task: Array) -> tuple[PyTree, tuple[PyTree, Metrics]]:
        state, info = observe_task(learner, images, stream, state, task, key)
        return state, (snapshot(state), info)

    tasks = jnp.arange(stream.rows.shape[0], dtype=jnp.int32)
    state, (snapshots, info) = jax.lax.scan(one_task, state, tasks)
    return state, snapshots, info


def accuracy_matrix(
    learner: Online,
    snapshots: PyTree,
    images: Images,
    stream: TaskStream,
    *,
    chunk: int = 1000,
    part: Literal["whole", "ends"] = "whole",
    last: Array | None = None,
) -> Array:
    """Compute the accuracy on the test images of each task after each task, [after, on], in 0..1.

    Args:
      learner, images, stream: as for `observe_stream`.
      snapshots: states with a leading axis [after], as `observe_stream` returns them.
      chunk: number of test images that all states predict at a time; it must divide their number, or else the
        whole set is predicted at once.
      part: "ends" computes only the diagonal and the last row of the matrix, all that `continual_metrics`
        needs; the rest is then NaN.
      last: [], the last task that was learned of a stream that ended early; rows after it are meaningless.

    Raises ValueError for another number of snapshots than tasks, and for a concrete `last` beyond them.
    Labels that the outputs do not have make the matrix NaN.
    """
    number = stream.maps.shape[0]
    after = {leaf.shape[0] for leaf in jax.tree.leaves(snapshots)}
    if after != {number}:
        raise ValueError(
            f"accuracy_matrix: snapshots of {sorted(after)} tasks for a stream of {number}; expected a state "
            "after each task"
        )
    if last is not None:
        require_within("accuracy_matrix", "last", last, 0, number - 1, "the tasks of the stream")
    count = images.test_y.shape[0]
    size = chunk if count % chunk == 0 else count
    rows = jnp.arange(count, dtype=jnp.int32).reshape(-1, size)  # [chunk, example]

    tasks = jnp.arange(number, dtype=jnp.int32)
    last = tasks[-1] if last is None else last

    def correct(states: PyTree, task: Array, rows: Array) -> Array:
        batch = test_rows(images, stream, task, rows)
        outputs = jax.vmap(lambda state: learner.predict(state, batch.x))(states)  # [after, example, way]
        right = (outputs.argmax(-1) == batch.y[None]).sum(1)
        return right * labels_factor("accuracy_matrix", batch.y, outputs.shape[-1])

    def on_task(task: Array) -> Array:
        after = tasks if part == "whole" else jnp.stack([task, last])
        states = jax.tree.map(lambda leaf: leaf[after], snapshots)
        counts = jax.lax.map(lambda rows: correct(states, task, rows), rows).sum(0)  # [after]
        return jnp.full(tasks.shape, jnp.nan).at[after].set(counts)

    return jax.lax.map(on_task, tasks).T / count


def continual_metrics(matrix: np.ndarray) -> dict[str, float]:
    """Compute the metrics of an accuracy matrix [after, on], in its unit (Lopez-Paz & Ranzato 2017; Riemer et
    al. 2019).

    `retained_accuracy` is the mean over all tasks after the last one; `learning_accuracy` the mean over tasks
    of the accuracy right after the task itself; `backward_transfer_and_interference` their difference, which
    is negative if tasks are forgotten.
    """
    matrix = np.asarray(matrix, np.float64)
    retained, learning = float(matrix[-1].mean()), float(np.diagonal(matrix).mean())
    return {
        "retained_accuracy": retained,
        "backward_transfer_and_interference": retained - learning,
        "learning_accuracy": learning,
    }


def stream_metrics(records: Mapping[str, np.ndarray], domains: Sequence[str]) -> dict[str, float]:
    """Compute the metrics of a learner on OSAKA's stream (Caccia et al. 2020).

    Args:
      records: {name: [step]}, of each batch the "accuracy" before it was learned, the "loss", and the index
        of its "domain"; "switched", if a new task began, and "detected", if the learner looks for switches.
      domains: names of the domains.

    Returns:
      The cumulative accuracy in 0..1, overall and by domain, the mean loss, and precision and recall of
      the detected switches.
    """
    metrics = {"cumulative_accuracy": float(records["accuracy"].mean())}
    for index, name in enumerate(domains):
        inside = records["domain"] == index
        if inside.any():
            metrics[f"cumulative_accuracy_{name}"] = float(records["accuracy"][inside].mean())
    metrics["loss"] = float(records["loss"].mean())
    if "detected" in records:
        right = float((records["detected"] * records["switched"]).sum())
        metrics["detection_precision"] = right / max(float(records["detected"].sum()), 1.0)
        metrics["detection_recall"] = right / max(float(records["switched"].sum()) - 1, 1.0)
    return metrics
