"""Tasks that do not fit a learner are refused in one sentence, by their shapes and, if concrete, labels."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.bounds import is_concrete
from jmeta.tree import require_same
from jmeta.types import Batch, LearnerState, PyTree, Stream, Task


def check_step(
    outputs_of: Callable[..., PyTree],
    objective: Callable[..., tuple],
    meta: PyTree,
    model_state: PyTree,
    task: PyTree,
) -> None:
    """Raise ValueError in one sentence if a task or stream cannot be run; nothing is computed.

    Args:
      outputs_of: `(meta, model_state, task) -> outputs`, of which the last axis is the ways.
      objective: `(meta, model_state, task, key) -> (loss, (model_state, metrics, ...))`.
      meta, model_state: as `adapter.init` returned them.
      task: one episode or stream; if its labels are concrete, their range is checked against the outputs.
    """
    for name, batch in _sets(task).items():
        sizes = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(batch)}
        if len(sizes) != 1:
            raise ValueError(
                f"learner: the {name} set has leading axes of {sorted(sizes)} examples; x, y and mask must "
                "have one row per example"
            )
    outputs = _abstractly("the adapter cannot run the task", outputs_of, meta, model_state, task)
    check_labels("learner", task, lambda: outputs)
    failure = "the loss or the metrics fail"
    loss, aux = _abstractly(failure, objective, meta, model_state, task, jax.random.key(0))
    if loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(f"learner: the loss is {loss.dtype}{list(loss.shape)}; expected one floating number")
    for name, value in aux[1].items():
        if value.shape != ():
            raise ValueError(
                f"learner: the metric {name!r} has shape {value.shape}; expected one number a task"
            )
    require_same("learner: the model state", model_state, aux[0])


def check_task_axis(tasks: PyTree) -> None:
    """Raise ValueError if the sets of a batch of tasks are not arrays [task, example, ...] of equal sizes."""
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(tasks)}
    for name, batch in _sets(tasks).items():
        rows = {np.shape(leaf)[1:2] for leaf in jax.tree.leaves(batch)}
        if len(counts) != 1 or len(rows) != 1 or () in rows:
            shapes = ", ".join(f"{name}.{leaf}" for leaf in _shapes_in_words(batch))
            raise ValueError(
                f"learner: the tasks have {shapes}; expected [task, example, ...], with one number of tasks "
                "and, in a set, of examples; one task alone is a batch by jax.tree.map(lambda leaf: "
                "leaf[None], task)"
            )


@contextlib.contextmanager
def task_axis_named(objective: Callable[..., tuple], state: LearnerState, tasks: PyTree) -> Iterator[None]:
    """Replace an error by ValueError if `tasks` is a single task, without the axis [task]."""
    try:
        yield
    except Exception as error:
        first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tasks)
        if not _runs(objective, state, tasks) or _runs(objective, state, first):
            raise
        raise ValueError(
            f"learner: this is one task, {', '.join(_shapes_in_words(tasks))}, without the axis [task]; "
            "give it one: jax.tree.map(lambda leaf: leaf[None], task)"
        ) from error


def _runs(objective: Callable[..., tuple], state: LearnerState, task: PyTree) -> bool:
    try:
        jax.eval_shape(objective, state.meta, state.model_state, task, jax.random.key(0))
    except Exception:
        return False
    return True


def check_labels(who: str, examples: Task | Batch | Stream, outputs: Callable[[], PyTree]) -> None:
    """Raise ValueError for an integer label that is no way of the outputs, if the labels are concrete.

    Args:
      who: the name of the caller in errors.
      examples: labels [example] of outputs [example, way], or, with as many further axes as the outputs of an
        example have, [example, ...] of [example, ..., way]; a leading axis [task] of all of them is allowed.
        Labels of padding are not looked at. -1 in the feedback of a stream is no label.
      outputs: computes the shapes of one task's outputs, if there are labels to check.
    """
    ranges = [
        (f"{name} {field}", *bounds, y.ndim)
        for name, batch in _sets(examples).items()
        for field, lowest in (("labels", 0), ("feedback", -1))
        if (y := getattr(batch, "y" if field == "labels" else field, None)) is not None
        and (bounds := _label_range(y, batch.mask))
        and (bounds[0] < lowest or bounds[1] > 0)
    ]
    if not ranges:
        return
    shape: tuple[int, ...] = getattr(outputs(), "shape", ())
    for name, low, high, axes in ranges:
        classified = len(shape) >= 2 and axes in (len(shape) - 1, len(shape)) and shape[-1] > 1
        lowest = -1 if name.endswith("feedback") else 0
        if classified and (low < lowest or high >= shape[-1]):
            raise ValueError(
                f"{who}: {name} run from {low} to {high}, but the outputs {shape} have {shape[-1]} ways; "
                f"expected labels in 0..{shape[-1] - 1}"
            )


def abstract_outputs(function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """Compute the shapes of `function(*arguments)`, once for each function and shapes of the arguments."""
    leaves, structure = jax.tree.flatten(arguments)
    return _abstract_outputs(function, structure, tuple((jnp.shape(a), jnp.result_type(a)) for a in leaves))


@functools.lru_cache(64)
def _abstract_outputs(function: Callable[..., PyTree], structure: Any, shapes: tuple) -> PyTree:
    return jax.eval_shape(function, *structure.unflatten(jax.ShapeDtypeStruct(*shape) for shape in shapes))


def first_line(error: Exception) -> str:
    """Return an error's first line, with its type if it says little by itself."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (
        reason if isinstance(error, TypeError | ValueError) and reason else f"{type(error).__name__} {reason}"
    )


def _abstractly(failure: str, function: Callable, *arguments: PyTree) -> PyTree:
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        raise ValueError(f"learner: {failure}: {first_line(error)}") from error


def _sets(examples: PyTree) -> dict[str, Batch | Stream]:
    """List the sets of a task, or a stream or batch alone, by name."""
    whole = "stream" if isinstance(examples, Stream) else "support"
    parts = examples._asdict() if isinstance(examples, Task) else {whole: examples}
    return {name: part for name, part in parts.items() if isinstance(part, Batch | Stream)}


def _label_range(y: Any, mask: Any) -> tuple[int, int] | None:
    """Find the lowest and the highest label of concrete integers; None if there are none."""
    if not _is_concrete(y) or not jnp.issubdtype(y.dtype, jnp.integer):
        return None
    labels = np.asarray(y)  # by numpy: under jit a method of a constant would be traced
    if mask is not None:
        if not _is_concrete(mask):
            return None
        labels = labels[np.asarray(mask) > 0]
    return (int(labels.min()), int(labels.max())) if labels.size else None


def _is_concrete(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray) and is_concrete(value)


def _shapes_in_words(tree: PyTree) -> list[str]:
    return [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} {list(np.shape(leaf))}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
