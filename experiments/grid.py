"""`--grid`: settings of an algorithm to run side by side, and what a setting may be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experiments.common import UsageError


def parse_grid(text: str, tunable: Sequence[str]) -> list[dict[str, float]]:
    """`--grid`: "a=1:2,b=3:4" as the four points of the two lists; [{}] for none.

    Raises UsageError for what is no such list, or a setting that is not `tunable`.
    """
    axes: dict[str, list[float]] = {}
    for part in filter(None, text.split(",")):
        name, _, values = part.partition("=")
        if name not in tunable or name in axes:
            raise UsageError(
                f"--grid={text}: {name!r}; expected once each of {', '.join(map(repr, tunable))}"
            )
        try:
            axes[name] = [float(value) for value in values.split(":")]
        except ValueError:
            raise UsageError(f"--grid={text}; expected name=number:number, ...") from None
    return [dict(zip(axes, point)) for point in itertools.product(*axes.values())]


def check_numbers(
    settings: Mapping[str, Any],
    *,
    positive: Collection[str],
    not_negative: Collection[str],
    endless: Collection[str] = (),
) -> None:
    """Raise UsageError for a setting that is not `positive` or is below zero, is no number, or is infinite
    where it is not one of the `endless` ones; settings that are missing or None are passed over."""
    for name in (*positive, *not_negative):
        value = settings.get(name)
        if value is None:
            continue
        what = "a positive number" if name in positive else "a number of at least 0"
        enough = value > 0 if name in positive else value >= 0
        if not enough or (math.isinf(value) and name not in endless):
            raise UsageError(f"--{name}={value}; expected {what}")
