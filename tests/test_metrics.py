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


def test_accuracy_of_pixels_under_a_mask():
    """Every pixel right is 1, and a padded image counts for nothing."""
    y = jax.random.randint(jax.random.key(0), (4, 3, 3), 0, 5)
    logits = jax.nn.one_hot(y, 5).at[1].multiply(-1).at[0, 0, 0].multiply(-1)
    values = jmeta.accuracy(logits, jmeta.Batch(None, y, jnp.array([1.0, 0.0, 0.0, 1.0])))
    np.testing.assert_allclose(values["accuracy"], (8 / 9 + 1) / 2)


def test_metrics_are_nan_for_labels_out_of_range():
    logits, y = jnp.eye(4), jnp.array([0, 1, 2, 4])
    batch, stream = jmeta.Batch(None, y), jmeta.Stream(None, y, y)
    for metric in (
        lambda y: jmeta.accuracy(logits, batch._replace(y=y)),
        lambda y: accuracy_by_shot(logits, stream._replace(y=y), shots=0),
        lambda y: accuracy_by_subtask(logits, batch._replace(y=y), subtasks=4),
    ):
        assert all(np.isnan(value) for value in jax.jit(metric)(y).values())
        assert all(np.isfinite(value) for value in jax.jit(metric)(jnp.array([0, 1, 2, 3])).values())
        with np.testing.assert_raises_regex(ValueError, r"labels run from 0 to 4; expected 0..3"):
            metric(y)


def test_metrics_of_bfloat16_are_float32():
    """0.867 of 1,000 examples; a mean in bfloat16 would stop at 256."""
    y = jnp.zeros(1000, int)
    logits = jnp.where(jnp.arange(1000)[:, None] < 867, jnp.eye(2)[:1], jnp.eye(2)[1:]).astype(jnp.bfloat16)
    for mask in (None, jnp.ones(1000, jnp.bfloat16)):
        value = jmeta.accuracy(logits, jmeta.Batch(None, y, mask))["accuracy"]
        assert value.dtype == jnp.float32 and abs(value - 0.867) < 1e-6


def test_padding_is_no_subtask():
    y, mask = jnp.array([4, 4, 9, 0, 0, 0, 0]), jnp.array([1.0, 1, 0, 1, 1, 0, 0])
    logits = jax.nn.one_hot(jnp.array([4, 1, 1, 0, 0, 1, 1]), 5)
    values = accuracy_by_subtask(logits, jmeta.Batch(None, y, mask), subtasks=2)
    expected = {"accuracy_subtask_1": 0.5, "accuracy_subtask_2": 1.0, "accuracy_before_last": 0.5}
    np.testing.assert_equal({name: float(value) for name, value in values.items()}, expected)


def test_shots_are_counted_by_real_examples_whatever_their_weight():
    y = jnp.array([0, 0, 0])
    stream = jmeta.Stream(None, y, y, jnp.array([0.5, 0.0, 0.5]))
    values = accuracy_by_shot(jnp.eye(2)[jnp.array([0, 0, 1])], stream, shots=1)
    assert float(values["accuracy_0_shot"]) == 1 and float(values["accuracy_1_shot"]) == 0
