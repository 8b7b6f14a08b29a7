"""The facts that config.json and results.json record about a run, for reports to compare runs by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.flags import Flag
from jmeta.data.source import DatasetInfo
from jmeta.metrics import summarize
from jmeta.report.units import unit_of


def facts_of_test_tasks(
    flags: Mapping[str, Flag], settings: Mapping[str, Any], identity: Mapping[str, Any], data: DatasetInfo
) -> dict[str, Any]:
    """List all that decides the test tasks: the flags that have such a `fact`, and facts about the data."""
    return {
        **{flag.fact: settings[name] for name, flag in flags.items() if flag.fact},
        "data_dir": identity.get("data_dir"),  # one's own data are named by their folder
        "split": data.split,
        "shape": data.shape,
        "classes": (data.classes or {}).get("test"),
    }


def distinguishing_words(flags: Mapping[str, Flag], settings: Mapping[str, Any]) -> list[list[Any]]:
    """List the words that tell this run from others: [about, name, words, whether they go without saying]."""
    return [
        [
            flag.about,
            name,
            flag.words.format(settings[name]),
            flag.said_elsewhere or settings[name] == flag.usual,
        ]
        for name, flag in flags.items()
        if flag.words and settings[name] is not None
    ]


def describe_device() -> dict[str, Any]:
    """Describe the devices of this run, and how many processes share it."""
    return {
        "platform": jax.default_backend(),
        "kind": jax.devices()[0].device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
    }


def summarize_tasks(
    values: Mapping[str, np.ndarray], seeds: int | None, *, regression: bool = False
) -> dict[str, Any]:
    """Summarize {metric: [task] or [task, seed]} over tasks; of several seeds over each seed's mean.

    Returns {"metrics": {metric: {"mean", "median", "ci95", "unit"}}, "seeds": {metric: [seed]} or None,
    "not_finite"}. With several seeds a metric also has "of_medians", the summary of each seed's median over
    the tasks, for which a loss that is not a number is the largest there is.
    """
    reported = {metric: value for metric, value in values.items() if not metric.endswith("_ok")}
    return {
        "metrics": {
            metric: _summary(value) | {"unit": unit_of(metric, regression=regression)}
            for metric, value in reported.items()
        },
        "seeds": {metric: value.mean(0).tolist() for metric, value in reported.items()} if seeds else None,
        "not_finite": {
            metric: np.count_nonzero(~np.isfinite(value), axis=0).tolist()
            for metric, value in reported.items()
            if not np.isfinite(value).all()
        },
    }


def _summary(values: np.ndarray) -> dict[str, Any]:
    """Summarize [task], or [task, seed] by each seed's mean and each seed's median."""
    if values.ndim == 1:
        return summarize(values)._asdict()
    medians = np.median(np.where(np.isnan(values), np.inf, values), axis=0)
    of_means = summarize(values.mean(0), over="seeds")._asdict()
    return of_means | {"of_medians": summarize(medians, over="seeds")._asdict()}
