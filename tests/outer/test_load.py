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
from jmeta.outer.load import build_learner, load, load_rule
from jmeta.outer.seeds import seed_keys
from jmeta.types import Batch, Task

LOSS = {"name": "cross_entropy"}
NET, BODY = {"name": "mlp", "widths": [4], "outputs": 3}, {"name": "mlp", "widths": [4]}
COMLN = {"name": "comln", "way": 3, "solver": "euler", "step_size": 0.5}
ADAPTERS = {
    "maml": {"name": "maml", "model": NET, "inner_lr": 0.5, "inner_steps": 2},
    "comln": {"name": "on_features", "body": BODY, "head": COMLN, "way": 3},
}


def _spec(adapter, smoothing=0.0, seeds=None):
    """The spec of a learner around an adapter whose inner and outer loss are smoothed in training."""
    smoothed = LOSS | {"smoothing": smoothing}
    if adapter["name"] == "on_features":
        adapter = adapter | {"head": adapter["head"] | {"label_smoothing": smoothing}}
    else:
        adapter = adapter | {"loss": smoothed} | ({} if adapter["name"] == "oml" else {"test_loss": LOSS})
    spec = {"name": "learner", "adapter": adapter, "loss": smoothed, "test_loss": LOSS,
            "metrics": {"name": "accuracy"}, "tx": {"name": "sgd", "learning_rate": 0.1}}  # fmt: skip
    return {"name": "vmap_seeds", "learner": spec} if seeds else spec


def _tasks():
    x = jax.random.normal(jax.random.key(0), (2, 12, 5), jnp.float32)
    y = jnp.tile(jnp.arange(12) % 3, (2, 1))
    return Task(Batch(x[:, :6], y[:, :6]), Batch(x[:, 6:], y[:, 6:]))


def _untrained(workdir, adapter, written=None, seeds=None, shape=(5,)):
    """Write a run without a step, with its adapter as `written` in config.json; its state."""
    example = {"shape": list(shape), "dtype": "float32"}
    config = {"spec": _spec(written or adapter, seeds=seeds), "input": example, "seeds": seeds}
    (workdir / "config.json").write_text(json.dumps(config))
    key = seed_keys(0, seeds) if seeds else jax.random.key(0)
    _, learner = build_learner(_spec(adapter, seeds=seeds))
    state = learner.init(key, jnp.ones((1, *shape), jnp.float32))
    with contextlib.closing(Checkpoints(workdir / "checkpoints", {})) as checkpoints:
        checkpoints.save(0, state, {})
    return state


@pytest.mark.parametrize("name", ADAPTERS)
def test_labels_are_smoothed_in_training_alone(name):
    _, plain = build_learner(_spec(ADAPTERS[name]))
    _, smoothed = build_learner(_spec(ADAPTERS[name], 0.4))
    tasks = _tasks()
    state = plain.init(jax.random.key(1), jax.tree.map(lambda leaf: leaf[0], tasks))
    losses = [jax.jit(learner.step)(state, tasks)[1]["loss"] for learner in (plain, smoothed)]
    assert (np.abs(losses[0] - losses[1]) > 1e-3).all()
    measured, reference = (jax.jit(learner.evaluate)(state, tasks) for learner in (smoothed, plain))
    for metric, value in reference.items():
        np.testing.assert_allclose(measured[metric], value, rtol=1e-6, err_msg=metric)


def test_an_infinite_horizon_is_read_back(tmp_path):
    """JSON has no infinity: the config.json of a run says "inf"."""
    head = {"name": "comln", "way": 3, "horizon": math.inf, "ridge": 0.1}
    adapter = ADAPTERS["comln"] | {"head": head}
    state = _untrained(tmp_path, adapter, adapter | {"head": head | {"horizon": "inf"}})
    _, loaded = load(tmp_path)
    assert "log_horizon" not in loaded.meta["head"]
    np.testing.assert_array_equal(loaded.meta["head"]["w0"], state.meta["head"]["w0"])


TURTLE = {"name": "turtle", "hidden_layers": 1, "hidden_units": 3, "learn_rates": False}


@pytest.mark.parametrize("seeds", [None, 2])
def test_a_learned_rule_is_read_back(tmp_path, seeds):
    """The rule that the run's config.json says, clipping included, with the seed's own numbers."""
    rule = {"name": "clip_gradients", "rule": TURTLE, "limit": 0.5}
    adapter = {"name": "gradient", "model": NET, "rule": rule, "inner_steps": 2, "order": "exact"}
    state = _untrained(tmp_path, adapter, seeds=seeds)
    rule, hyper = load_rule(tmp_path, seed=1 if seeds else 0)
    expected = state.meta["rule"]
    expected = jax.tree.map(lambda leaf: leaf[1], expected) if seeds else expected
    jax.tree.map(np.testing.assert_array_equal, hyper, expected)
    params, grads = jnp.ones(4, jnp.float32), jnp.array([-2.0, -0.5, 0.1, 7.0], jnp.float32)
    tx, reference = (
        jmeta.as_optax(kind, expected)
        for kind in (rule, jmeta.clip_gradients(jmeta.turtle((3,), learn_rates=False), 0.5))
    )
    updates, wanted = (kind.update(grads, kind.init(params), params)[0] for kind in (tx, reference))
    np.testing.assert_array_equal(updates, wanted)
    assert updates[0] == updates[1] and np.any(updates != 0)


def test_the_learned_rule_of_a_head_is_read_back(tmp_path):
    rule = {"name": "sgd", "rate": 0.1, "learn": "leaf"}
    adapter = {"name": "oml", "outputs": 3, "rule": rule, "filters": 2, "strides": [2], "hidden": 4}
    state = _untrained(tmp_path, adapter, shape=(6, 6, 1))
    _, hyper = load_rule(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, hyper, state.meta["head"]["rule"])
    assert jax.tree.leaves(hyper)


def test_a_run_without_a_learned_rule(tmp_path):
    _untrained(tmp_path, ADAPTERS["maml"])
    with pytest.raises(ValueError, match=f"{tmp_path} learned no inner rule"):
        load_rule(tmp_path)


def test_a_rule_with_nothing_to_learn(tmp_path):
    rule = {"name": "sgd", "rate": 0.1}
    _untrained(tmp_path, {"name": "gradient", "model": NET, "rule": rule, "inner_steps": 2})
    with pytest.raises(ValueError, match="learned no inner rule"):
        load_rule(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"recipe": {"adapter": {"name": "comln"}}, "identity": {}}, "written by an older jmeta"),
        ({"spec": {"adapter": {}}}, "damaged"),
        ([1, 2], "damaged"),
    ],
)
def test_a_run_of_an_older_tree_or_a_damaged_one_is_refused_in_one_line(tmp_path, config, words):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
