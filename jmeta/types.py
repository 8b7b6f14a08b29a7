"""The seven interfaces and the data tuples that every part of jmeta speaks.

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
    `mask`: [example], 1 for a real example and 0 for padding, or None if nothing is padded.
    """

    x: PyTree
    y: PyTree
    mask: Array | None = None


BatchLoss = Callable[[PyTree, Batch], Array]  # (outputs, batch) -> scalar


class Stream(NamedTuple):
    """Examples in time order, with the labels that arrive as feedback, possibly late.

    `x` [time, ...]; `y` [time]; `feedback` [time] integer labels, -1 if nothing has arrived;
    `mask` [time]; `task` [time], the index of the subtask.
    """

    x: PyTree
    y: PyTree
    feedback: Array
    mask: Array | None = None
    task: Array | None = None


class Task(NamedTuple):
    """One episode: a support set to adapt to, which is a `Stream` if the task is continual, and a query set
    to evaluate on. A batch of tasks is the same pytree with a leading task axis."""

    support: Batch | Stream
    query: Batch


class LearnerState(NamedTuple):
    """Everything that a run needs to continue: `step` [] int32, the meta-parameters `meta`, the running
    statistics `model_state`, the outer optimizer's state `opt` and a typed `key`."""

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
    `encode(meta, state, x, *, train, key, mask) -> (z, state)`, the part that does not depend on the task;
    `adapt(meta, state, support, key, *, train) -> (fast, state, info)`, with `support.x` encoded;
    `predict(meta, fast, state, x, key, *, train, mask) -> (outputs, state)`, with `x` encoded.
    The scalars of `info` join the metrics. At evaluation every `key` is None, unless the algorithm
    `draws_at_test`. `with_norm(norm)`, if any, is the same algorithm for the same meta-parameters under
    another policy of batch normalization (`jmeta.models.norm_policy`). `learned(meta) -> {name: scalar}`, if
    any, tells in numbers what has been learned.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    adapt: Callable[..., tuple[PyTree, PyTree, Metrics]]
    predict: Callable[..., tuple[PyTree, PyTree]]
    encode: Callable[..., tuple[PyTree, PyTree]] = _identity_encode
    draws_at_test: bool = False
    with_norm: Callable[..., Adapter] | None = None
    learned: Callable[[PyTree], Metrics] | None = None


class Head(NamedTuple):
    """A predictor that is fitted to the features of one task; `jmeta.on_features` makes an adapter of it.

    `init(key, z) -> meta`, for example features;
    `fit(meta, support, key, *, present, train) -> (fast, info)`, with features in `support.x`
    [shot, feature] and the ways that the task has in `present` [way], None unless episodes are padded;
    `predict(meta, fast, z) -> outputs` [example, ...]. The scalars of `info` join the metrics.
    """

    init: Callable[..., PyTree]
    fit: Callable[..., tuple[PyTree, Metrics]]
    predict: Callable[..., PyTree]
    draws_at_test: bool = False


class Memory(NamedTuple):
    """A learner that adapts by its state over a stream.

    `init(key, x) -> (params, state)`;
    `prepare(params, state, x, feedback, *, train, key, mask) -> (inputs, state)`, the part that needs no
    hidden state, for all steps at once;
    `carry(params, inputs) -> carry`; `step(params, carry, inputs) -> (carry, outputs)`;
    `loss(outputs, stream) -> scalar`.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    prepare: Callable[..., tuple[PyTree, PyTree]]
    carry: Callable[..., PyTree]
    step: Callable[..., tuple[PyTree, PyTree]]
    loss: Callable[..., Array]


class Context(NamedTuple):
    """Facts about a batch that a continual learner may use beside its examples.

    `task` [] is the number of the batch's task; `first_pass` [] is true if its examples are seen for the
    first time, and are to be remembered.
    """

    task: Array | int = 0
    first_pass: Array | bool = True


class Online(NamedTuple):
    """A continual learner that updates itself by gradients.

    `init(key, x) -> state`, given inputs `x` [example, ...] of the stream's shape;
    `observe(state, batch, key, *, context=None) -> (state, info)`, with `key` for the draws from a memory and
    a `Context`, which most learners ignore (None: task 0, in its first pass);
    `predict(state, x) -> outputs`.
    """

    init: Callable[..., PyTree]
    observe: Callable[..., tuple[PyTree, Metrics]]
    predict: Callable[..., PyTree]


def _check_nothing(state: LearnerState, tasks: PyTree, *, train: bool) -> None:
    pass


class Learner(NamedTuple):
    """The outer loop around an adapter, a memory or a plain model.

    `init(key, x) -> LearnerState`; `step(state, tasks) -> (state, metrics)`;
    `evaluate(state, tasks, first=0) -> metrics`, each metric per task, [task]; `first` is the index of the
    first of these tasks among all tasks of the evaluation, so that noise depends on a task's own index;
    `check(state, tasks, *, train)` raises ValueError for tasks that cannot be run, as far as they are
    concrete. `step` and `evaluate` call it.
    """

    init: Callable[..., LearnerState]
    step: Callable[..., tuple[LearnerState, Metrics]]
    evaluate: Callable[..., Metrics]
    check: Callable[..., None] = _check_nothing


class FlowInfo(NamedTuple):
    """The end of a gradient flow: `steps` [] int32, the solver steps taken; `ok` [] bool, true if the flow
    reached its horizon."""

    steps: Array
    ok: Array
