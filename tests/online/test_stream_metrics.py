"""Metrics of OSAKA's stream, counted by hand."""

import numpy as np
import pytest

from jmeta.online.stream import stream_metrics


def test_detected_switches_are_counted_after_the_first_batch():
    """Switches at 0, 2, 5 and 7, of which the first cannot be detected; detected at 2, 3 and 7."""
    records = {
        "accuracy": np.array([0.2, 0.4, 0.0, 0.6, 0.8, 0.4, 0.6, 0.2]),
        "loss": np.arange(8.0),
        "domain": np.array([0, 0, 1, 1, 1, 0, 0, 2]),
        "switched": np.array([1, 0, 1, 0, 0, 1, 0, 1]),
        "detected": np.array([0, 0, 1, 1, 0, 0, 0, 1]),
    }
    assert stream_metrics(records, ["a", "b", "c", "d"]) == pytest.approx({
        "cumulative_accuracy": 0.4, "cumulative_accuracy_a": 0.4, "cumulative_accuracy_b": 1.4 / 3,
        "cumulative_accuracy_c": 0.2, "loss": 3.5, "detection_precision": 2 / 3, "detection_recall": 2 / 3,
    })  # fmt: skip
