"""Learners from plain settings."""

import contextlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.load import build, load
from jmeta.types import Batch, Task

ADAPTERS = {
    "maml": {"inner_lr": 0.5, "inner_steps": 2},
    "comln": {"solver": "euler", "step_size": 0.5, "horizon": 1.0},
}


def _recipe(name, smoothing):
    adapter = {"name": name, "model": {"name": "mlp", "widths": [4]}, "loss_name": "cross_entropy"}
    return {
        "adapter": {**adapter, "smoothing": smoothing, "outputs": 3, **ADAPTERS[name]},
        "optimiser": {"name": "sgd", "learning_rate": 0.1},
        "chunk": None,
    }


def _tasks():
    x = jax.random.normal(jax.random.key(0), (2, 12, 5), jnp.float32)
    y = jnp.tile(jnp.arange(12) % 3, (2, 1))
    return Task(Batch(x[:, :6], y[:, :6]), Batch(x[:, 6:], y[:, 6:]))


@pytest.mark.parametrize("name", ADAPTERS)
def test_labels_are_smoothed_in_training_alone(name):
    _, plain = build(_recipe(name, 0.0))
    _, smoothed = build(_recipe(name, 0.4))
    tasks = _tasks()
    state = plain.init(jax.random.key(1), jax.tree.map(lambda leaf: leaf[0], tasks))
    losses = [jax.jit(made.step)(state, tasks)[1]["loss"] for made in (plain, smoothed)]
    assert (np.abs(losses[0] - losses[1]) > 1e-3).all()
    measured, reference = (jax.jit(made.evaluate)(state, tasks) for made in (smoothed, plain))
    for metric, value in reference.items():
        np.testing.assert_allclose(measured[metric], value, rtol=1e-6, err_msg=metric)


def test_an_infinite_horizon_is_read_back(tmp_path):
    """JSON has no infinity: the config.json of a run says "inf"."""
    recipe = _recipe("comln", 0.0) | {"input": {"shape": [5], "dtype": "float32"}}
    recipe["adapter"] = {**recipe["adapter"], "horizon": "inf", "ridge": 0.1}
    (tmp_path / "config.json").write_text(json.dumps({"recipe": recipe}))
    recipe["adapter"]["horizon"] = math.inf
    state = build(recipe)[1].init(jax.random.key(0), jnp.ones((1, 5), jnp.float32))
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints", {})) as checkpoints:
        checkpoints.save(0, state, {})
    _, found = load(tmp_path)
    assert "log_horizon" not in found.meta
    np.testing.assert_array_equal(found.meta["w0"], state.meta["w0"])
