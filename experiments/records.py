"""The facts that config.json and results.json record about a run, for reports to compare runs by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.flags import Flag
from jmeta.data.source import DatasetInfo
from jmeta.metrics import summarize


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


def summarize_tasks(values: Mapping[str, np.ndarray], seeds: int | None) -> dict[str, Any]:
    """Summarize {metric: [task] or [task, seed]} over tasks; of several seeds over each seed's mean."""
    reported = {metric: value for metric, value in values.items() if not metric.endswith("_ok")}
    return {
        "metrics": {
            metric: summarize(value.mean(0) if seeds else value)._asdict()
            for metric, value in reported.items()
        },
        "seeds": {metric: _by_seed(value) for metric, value in reported.items()} if seeds else None,
        "not_finite": {
            metric: np.count_nonzero(~np.isfinite(value), axis=0).tolist()
            for metric, value in reported.items()
            if not np.isfinite(value).all()
        },
    }


def _by_seed(values: np.ndarray) -> dict[str, Any]:
    """Compute from [task, seed] each seed's mean and median over the tasks, and the summary of the medians,
    for which a loss that is not a number is the largest there is."""
    medians = np.median(np.where(np.isnan(values), np.inf, values), axis=0)
    return {
        "mean": values.mean(0).tolist(),
        "median": medians.tolist(),
        "of_medians": summarize(medians)._asdict(),
    }
