"""Learners from plain settings."""

import contextlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.load import build, load, load_rule
from jmeta.outer.seeds import seed_keys
from jmeta.types import Batch, Task

ADAPTERS = {
    "maml": {"inner_lr": 0.5, "inner_steps": 2},
    "comln": {"solver": "euler", "step_size": 0.5, "horizon": 1.0},
}


def _recipe(name, smoothing):
    adapter = {"name": name, "model": {"name": "mlp", "widths": [4]}, "loss_name": "cross_entropy"}
    return {
        "adapter": {**adapter, "smoothing": smoothing, "outputs": 3, **ADAPTERS.get(name, {})},
        "optimiser": {"name": "sgd", "learning_rate": 0.1},
        "chunk": None,
    }


def _tasks():
    x = jax.random.normal(jax.random.key(0), (2, 12, 5), jnp.float32)
    y = jnp.tile(jnp.arange(12) % 3, (2, 1))
    return Task(Batch(x[:, :6], y[:, :6]), Batch(x[:, 6:], y[:, 6:]))


def _untrained(workdir, name, settings, written=None, seeds=None):
    """Write a run without a step, with the adapter's `settings` as `written` in config.json; its state."""
    recipe = _recipe(name, 0.0) | {"input": {"shape": [5], "dtype": "float32"}, "seeds": seeds}
    config = recipe | {"adapter": {**recipe["adapter"], **(written or settings)}}
    (workdir / "config.json").write_text(json.dumps({"recipe": config}))
    recipe["adapter"] |= settings
    key = seed_keys(0, seeds) if seeds else jax.random.key(0)
    state = build(recipe)[1].init(key, jnp.ones((1, 5), jnp.float32))
    with contextlib.closing(Checkpoints(workdir / "checkpoints", {})) as checkpoints:
        checkpoints.save(0, state, {})
    return state


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
    settings = {"horizon": math.inf, "ridge": 0.1}
    state = _untrained(tmp_path, "comln", settings, settings | {"horizon": "inf"})
    _, found = load(tmp_path)
    assert "log_horizon" not in found.meta
    np.testing.assert_array_equal(found.meta["w0"], state.meta["w0"])


@pytest.mark.parametrize("seeds", [None, 2])
def test_a_learned_rule_is_read_back(tmp_path, seeds):
    """The rule that the run's config.json says, clipping included, with the seed's own numbers."""
    settings = {"name": "turtle", "widths": [3], "learn_rates": False, "clip": 0.5}
    state = _untrained(tmp_path, "gradient", {"rule": settings, "inner_steps": 2}, seeds=seeds)
    rule, hyper = load_rule(tmp_path, seed=1 if seeds else 0)
    expected = state.meta["rule"]
    expected = jax.tree.map(lambda leaf: leaf[1], expected) if seeds else expected
    jax.tree.map(np.testing.assert_array_equal, hyper, expected)
    params, grads = jnp.ones(4, jnp.float32), jnp.array([-2.0, -0.5, 0.1, 7.0], jnp.float32)
    tx, reference = (
        jmeta.as_optax(made, expected)
        for made in (rule, jmeta.clip_gradients(jmeta.turtle((3,), learn_rates=False), 0.5))
    )
    found, wanted = (kind.update(grads, kind.init(params), params)[0] for kind in (tx, reference))
    np.testing.assert_array_equal(found, wanted)
    assert found[0] == found[1] and np.any(found != 0)


def test_a_run_without_a_learned_rule(tmp_path):
    _untrained(tmp_path, "maml", {})
    with pytest.raises(ValueError, match=f"{tmp_path} learned no inner rule"):
        load_rule(tmp_path)


def test_a_rule_with_nothing_to_learn(tmp_path):
    _untrained(tmp_path, "gradient", {"rule": {"name": "sgd", "rate": 0.1}, "inner_steps": 2})
    with pytest.raises(ValueError, match="learned no inner rule"):
        load_rule(tmp_path)
