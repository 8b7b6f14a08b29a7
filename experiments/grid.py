"""`--grid`: settings of an algorithm to run side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

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
