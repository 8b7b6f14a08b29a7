"""A continual learner on a stream: every step inside one scan, and the accuracy on all tasks after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.data.streams import Images, TaskStream, batch_at, test_rows
from jmeta.online.state import without_memory
from jmeta.types import Array, Key, Metrics, Online, PyTree


def initial(learner: Online, images: Images, stream: TaskStream, key: Key) -> PyTree:
    """The learner's state before the stream, made for batches of the stream's size."""
    return learner.init(key, batch_at(images, stream, 0, 0).x)


def play_task(
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

    Step s of task t has the key fold_in(fold_in(key, t), s). Returns the state and what the learner reports,
    [step].
    """
    key = jax.random.fold_in(key, task)
    steps = jnp.arange(stream.rows.shape[1], dtype=jnp.int32) if steps is None else steps

    def step(state: PyTree, index: Array) -> tuple[PyTree, Metrics]:
        return learner.observe(
            state,
            batch_at(images, stream, task, index),
            task=task,
            first_pass=stream.first_pass[index],
            key=jax.random.fold_in(key, index),
        )

    return jax.lax.scan(step, state, steps)


def play(
    learner: Online,
    images: Images,
    stream: TaskStream,
    state: PyTree,
    key: Key,
    *,
    keep: Callable[[PyTree], PyTree] = without_memory,
) -> tuple[PyTree, PyTree, Metrics]:
    """Observe the whole stream, in one scan.

    `keep` says what to keep of the state after each task. Returns the state, what was kept with a leading
    axis [task], and what the learner reports, [task, step].
    """

    def one_task(state: PyTree, task: Array) -> tuple[PyTree, tuple[PyTree, Metrics]]:
        state, info = play_task(learner, images, stream, state, task, key)
        return state, (keep(state), info)

    tasks = jnp.arange(stream.rows.shape[0], dtype=jnp.int32)
    state, (kept, info) = jax.lax.scan(one_task, state, tasks)
    return state, kept, info


def accuracy_matrix(
    learner: Online,
    kept: PyTree,
    images: Images,
    stream: TaskStream,
    *,
    chunk: int = 1000,
    part: Literal["whole", "ends"] = "whole",
    last: Array | None = None,
) -> Array:
    """Accuracy on the test images of each task after each task, [after, on], shares of 1.

    `kept`: states with a leading axis [after], as `play` keeps them. `chunk` test images are predicted at a
    time, by all states at once; it must divide their number, or else the whole set is taken. The "ends" of
    the matrix are its diagonal and its last row, all that `summary` needs; the rest is then NaN. Of a stream
    that ended early `last` [] is the last task that was learned, and rows after it mean nothing.
    """
    count = images.test_y.shape[0]
    size = chunk if count % chunk == 0 else count
    rows = jnp.arange(count, dtype=jnp.int32).reshape(-1, size)

    tasks = jnp.arange(stream.maps.shape[0], dtype=jnp.int32)
    last = tasks[-1] if last is None else last

    def right(states: PyTree, task: Array, rows: Array) -> Array:
        batch = test_rows(images, stream, task, rows)
        outputs = jax.vmap(lambda state: learner.predict(state, batch.x))(states)
        return (outputs.argmax(-1) == batch.y[None]).sum(1)

    def on_task(task: Array) -> Array:
        after = tasks if part == "whole" else jnp.stack([task, last])
        states = jax.tree.map(lambda leaf: leaf[after], kept)
        counts = jax.lax.map(lambda rows: right(states, task, rows), rows).sum(0)
        return jnp.full(tasks.shape, jnp.nan).at[after].set(counts)

    return jax.lax.map(on_task, tasks).T / count


def summary(matrix: np.ndarray) -> dict[str, float]:
    """Numbers of an accuracy matrix [after, on], in its unit (Lopez-Paz & Ranzato 2017; Riemer et al. 2019).

    `retained_accuracy`, the mean over all tasks after the last; `learning_accuracy`, the mean over tasks of
    the accuracy right after the task itself; `backward_transfer_and_interference`, the first less the second,
    below zero where tasks are forgotten.
    """
    matrix = np.asarray(matrix, np.float64)
    retained, learning = float(matrix[-1].mean()), float(np.diagonal(matrix).mean())
    return {
        "retained_accuracy": retained,
        "backward_transfer_and_interference": retained - learning,
        "learning_accuracy": learning,
    }
