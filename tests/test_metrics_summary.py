"""The summary over tasks, by hand."""

import numpy as np
import pytest

from jmeta.metrics import summarize


def test_the_interval_is_that_of_the_sample_deviation():
    """Of 1, 2, 3 and 10: mean 4, median 2.5, squares about the mean 50, s = sqrt(50 / 3)."""
    summary = summarize(np.array([3.0, 10.0, 1.0, 2.0], np.float32))
    np.testing.assert_allclose(summary, (4.0, 2.5, 1.96 * (50 / 3) ** 0.5 / 2), rtol=1e-12)


def test_one_task_has_no_deviation():
    with pytest.raises(ValueError, match="at least 2 tasks"):
        summarize(np.array([1.0]))
