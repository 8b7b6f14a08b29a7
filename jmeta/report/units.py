"""The units of metrics, by name."""

from __future__ import annotations

_FRACTIONS = (
    "accuracy",
    "retained_accuracy",
    "learning_accuracy",
    "backward_transfer_and_interference",
    "cumulative_accuracy",
    "sparsity",
)


def unit_of(metric: str, *, regression: bool = False) -> str:
    """Return the unit of a metric: "fraction" (displayed in percent), "nats", "squared target" or "1".

    `metric` may be longer than the name with a unit, as "accuracy_1_shot" is. The loss of a regression is its
    squared error.
    """
    if metric.startswith(_FRACTIONS):
        return "fraction"
    if metric == "squared_error" or ("loss" in metric and regression):
        return "squared target"
    return "nats" if "loss" in metric else "1"
