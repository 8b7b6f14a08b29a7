"""Accuracies by shot and by subtask."""

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta.metrics import accuracy_by_shot, accuracy_by_subtask


def test_accuracy_by_shot_counts_presentations():
    """Right if the flag is 1, by how often the class has occurred before."""
    y = jnp.array([0, 1, 0, 0, 1])
    right = jnp.array([0, 0, 1, 0, 1])
    logits = jax.nn.one_hot(jnp.where(right == 1, y, 1 - y), 2)
    values = accuracy_by_shot(logits, jmeta.Stream(jnp.zeros(5), y, y), shots=3)
    np.testing.assert_equal(
        {name: float(value) for name, value in values.items()},
        {"accuracy_0_shot": 0.0, "accuracy_1_shot": 1.0, "accuracy_2_shot": 0.0, "accuracy_3_shot": np.nan},
    )
    masked = jmeta.Stream(jnp.zeros(5), y, y, jnp.array([1.0, 1, 0, 1, 1]))
    assert float(accuracy_by_shot(logits, masked, shots=2)["accuracy_1_shot"]) == 0.5


def test_accuracy_by_subtask_counts_positions():
    y = jnp.array([4, 4, 0, 0, 2, 2])
    right = jnp.array([1, 0, 1, 1, 0, 0])
    logits = jax.nn.one_hot(jnp.where(right == 1, y, 1), 5)
    values = accuracy_by_subtask(logits, jmeta.Batch(None, y), subtasks=4)
    expected = {
        "accuracy_subtask_1": 0.5, "accuracy_subtask_2": 1.0, "accuracy_subtask_3": 0.0,
        "accuracy_subtask_4": np.nan, "accuracy_before_last": 0.75,
    }  # fmt: skip
    np.testing.assert_equal({name: float(value) for name, value in values.items()}, expected)
