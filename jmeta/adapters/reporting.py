"""An adapter that reports numbers of what it has learned, in training, at test and afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jmeta.types import Adapter, Metrics, PyTree


def reporting(adapter: Adapter, learned: Callable[[PyTree], Metrics]) -> Adapter:
    """Let `adapter` report numbers of its meta-parameters, {name: scalar}, beside those of the task.

    Args:
      adapter: the algorithm.
      learned: `meta -> {name: scalar}`. A name with a slash, such as "sparsity/head/kernel", is a detail:
        it is reported in training, but not for every test task.

    Returns:
      The same algorithm, whose `info` has these numbers too, and which is `learned`.
    """

    def adapt(meta: PyTree, *rest: Any, train: bool) -> tuple[PyTree, PyTree, Metrics]:
        fast, state, info = adapter.adapt(meta, *rest, train=train)
        return fast, state, info | numbers_of(learned(meta), train)

    with_norm = adapter.with_norm and functools.cache(
        lambda norm: reporting(adapter.with_norm(norm), learned)  # type: ignore[misc]
    )
    return adapter._replace(adapt=adapt, with_norm=with_norm, learned=learned)


def numbers_of(learned: Metrics, train: bool) -> Metrics:
    """Select the numbers to report with a task: all in training, and at test those without a slash."""
    return {name: value for name, value in learned.items() if train or "/" not in name}
