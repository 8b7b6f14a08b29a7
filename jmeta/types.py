"""The six interfaces and the data tuples that every part of jmeta speaks.

An algorithm is a NamedTuple of pure functions over pytrees; whatever an outer loop could learn is in the
pytree, whatever is static is a keyword argument of the factory that returns the tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array  # a typed key, `jax.random.key(seed)`
PyTree = Any
Metrics = dict[str, jax.Array]


class Batch(NamedTuple):
    """Examples with their labels; the leading axis of every leaf is the example.

    `x`: inputs [example, ...]; `y`: integer labels [example] or regression targets [example, ...];
    `mask`: [example], 1 for a real example and 0 for padding, or None where nothing is padded.
    """

    x: PyTree
    y: PyTree
    mask: Array | None = None


class Stream(NamedTuple):
    """Examples in time order with the feedback that arrives late.

    `x` [time, ...]; `y` [time]; `feedback` [time] integer labels, -1 where nothing has arrived;
    `mask` [time]; `task` [time] the index of the subtask.
    """

    x: PyTree
    y: PyTree
    feedback: Array
    mask: Array | None = None
    task: Array | None = None


class Task(NamedTuple):
    """One episode: a support set to adapt on, a `Stream` where it is continual, and a query set to judge by.
    A batch of tasks is the same pytree with a leading task axis."""

    support: Batch | Stream
    query: Batch


class LearnerState(NamedTuple):
    """All that a run needs to continue: `step` [] int32, the meta-parameters `meta`, the running
    statistics `model_state`, the outer optimiser's `opt` and a typed `key`."""

    step: Array
    meta: PyTree
    model_state: PyTree
    opt: PyTree
    key: Key


class Model(NamedTuple):
    """Any network.

    `init(key, x) -> (params, state)`;
    `apply(params, state, x, *, train, key=None, mask=None) -> (outputs, state)`.
    `train` selects batch statistics and updates the running ones; noise (dropout, DropBlock) is drawn only
    when a `key` is given; `mask` [example] keeps padding out of batch statistics.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[PyTree, PyTree]]


class Rule(NamedTuple):
    """An inner update rule.

    `init(key, params) -> hyper`; `start(hyper, params, key) -> carry`;
    `update(hyper, grads, carry, params, *, loss, step) -> (updates, carry)`; the updates are added.
    `hyper` is meta-learned, `carry` lives for one task.
    """

    init: Callable[..., PyTree]
    start: Callable[..., PyTree]
    update: Callable[..., tuple[PyTree, PyTree]]


def _identity_encode(
    meta: PyTree,
    state: PyTree,
    x: PyTree,
    *,
    train: bool,
    key: Key | None = None,
    mask: Array | None = None,
) -> tuple[PyTree, PyTree]:
    return x, state


class Adapter(NamedTuple):
    """One whole adaptation algorithm.

    `init(key, x) -> (meta, state)`;
    `encode(meta, state, x, *, train, key, mask) -> (z, state)`, what does not depend on the task's weights;
    `adapt(meta, state, support, key, *, train) -> (fast, state, info)`, with `support.x` encoded;
    `predict(meta, fast, state, x, key, *, train, mask) -> (outputs, state)`, with `x` encoded.
    The scalars of `info` join the metrics.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    adapt: Callable[..., tuple[PyTree, PyTree, Metrics]]
    predict: Callable[..., tuple[PyTree, PyTree]]
    encode: Callable[..., tuple[PyTree, PyTree]] = _identity_encode


class Memory(NamedTuple):
    """A learner that adapts by its state over a stream.

    `init(key, x) -> (params, state)`;
    `prepare(params, state, x, feedback, *, train, key, mask) -> (inputs, state)`, what needs no hidden state;
    `carry(params, inputs) -> carry`; `step(params, carry, inputs) -> (carry, outputs)`;
    `loss(outputs, stream) -> scalar`.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    prepare: Callable[..., tuple[PyTree, PyTree]]
    carry: Callable[..., PyTree]
    step: Callable[..., tuple[PyTree, PyTree]]
    loss: Callable[..., Array]


class Online(NamedTuple):
    """A continual learner that updates itself by gradients.

    `init(key, x) -> state`, for example inputs; `observe(state, batch, *, task, first_pass, key) -> (state,
    info)`, where `task` [] is the number of the batch's task (most learners ignore it), `first_pass` [] says
    whether its examples are seen for the first time, and are to be remembered, and `key` draws what is
    replayed; `predict(state, x) -> outputs`.
    """

    init: Callable[..., PyTree]
    observe: Callable[..., tuple[PyTree, Metrics]]
    predict: Callable[..., PyTree]


class Learner(NamedTuple):
    """The outer loop around an adapter, a memory or a plain model.

    `init(key, x) -> LearnerState`; `step(state, tasks) -> (state, metrics)`;
    `evaluate(state, tasks, first=0) -> metrics`, each metric per task, [task]; `first` is the index of the
    first of these tasks among all that are evaluated, so that noise depends on a task's own index.
    """

    init: Callable[..., LearnerState]
    step: Callable[..., tuple[LearnerState, Metrics]]
    evaluate: Callable[..., Metrics]


class FlowInfo(NamedTuple):
    """How a gradient flow ended: `steps` [] int32 solver steps taken, `ok` [] bool, reached the horizon."""

    steps: Array
    ok: Array
