"""--init_from: which runs are refused, and in which words."""

import contextlib
import json

import jax
import numpy as np
import pytest

from experiments.errors import UsageError, usage_errors
from experiments.origin import read_origin, starting_state
from jmeta.data.datasets import dataset
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.load import build_learner
from jmeta.outer.seeds import seed_keys

INPUT = {"shape": [1], "dtype": "float32"}


def spec(algorithm="maml", width=4, seeds=None, adapter=None):
    """A learner for sine waves."""
    squared, body = {"name": "mean_squared_error"}, {"name": "mlp", "widths": [width]}
    steps = {"inner_lr": 0.1, "inner_steps": 1, "loss": squared}
    if algorithm == "anil":
        head = {"name": "anil", "model": {"name": "mlp", "widths": [], "outputs": 1}, **steps}
        default = {"name": "on_features", "body": body, "head": head, "way": None, "norm": "batch"}
    else:
        default = {"name": algorithm, "model": {**body, "outputs": 1}, **steps}
    tx = {"name": "adam", "learning_rate": 0.1}
    learner = {"name": "learner", "adapter": adapter or default, "loss": squared, "tx": tx}
    return {"name": "vmap_seeds", "learner": learner} if seeds else learner


@pytest.fixture(scope="module")
def sampler():
    return dataset("sinusoid").episodes("train", shot=2, query=2)


def begin(spec, sampler, seeds=None, init_from=None):
    _, learner = build_learner(spec)
    options = {"seed": 0, "seeds": seeds, "init_from": init_from, "initial": None}
    return starting_state(learner, spec, sampler, **options)


@pytest.fixture
def a_run(tmp_path):
    """`a_run(spec, seeds)`: the workdir of a run that has just begun."""

    def make(spec, seeds=None):
        config = {"spec": spec, "input": INPUT, "seeds": seeds, "flags": {}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        key, x = seed_keys(5, seeds) if seeds else jax.random.key(5), np.zeros((1, 1), np.float32)
        _, learner = build_learner(spec)
        with contextlib.closing(Checkpoints(tmp_path / "checkpoints", {})) as checkpoints:
            checkpoints.save(0, jax.jit(learner.init)(key, x), {})
        return str(tmp_path)

    return make


def test_a_run_of_the_same_kind_gives_its_parameters(a_run, sampler):
    workdir = a_run(spec())
    ours, theirs = begin(spec(), sampler), begin(spec(), sampler, init_from=workdir)
    leaves = [jax.tree.leaves(state.meta) for state in (ours, theirs)]
    assert all(a.shape == b.shape for a, b in zip(*leaves, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))
    begin(spec("fomaml"), sampler, init_from=workdir)


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ({"width": 4}, {"width": 8}, r"dense_0/bias has shape \(4,\) there and \(8,\) here; give the"),
        ({"algorithm": "anil"}, {}, "that run trained anil and this is maml: only that one has "),
        ({"seeds": 2}, {}, "--num_seeds=2 there and 1 here; give --num_seeds=2"),
        ({}, {"seeds": 3}, "--num_seeds=1 there and 3 here; give --num_seeds=1"),
    ],
)  # fmt: skip
def test_a_misfit_names_what_differs(a_run, sampler, theirs, ours, words):
    workdir = a_run(spec(**theirs), theirs.get("seeds"))
    with pytest.raises(UsageError, match=words) as caught:
        begin(spec(**ours), sampler, ours.get("seeds"), workdir)
    assert str(caught.value).startswith(f"--init_from={workdir}: ")
    assert "None" not in str(caught.value) and "\n" not in str(caught.value)


def a_config(**changes):
    return json.dumps({"spec": spec(), "input": INPUT, "seeds": None, "flags": {}} | changes)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "null", "{}", "[" * 100_000, '{"spec":' * 5000]
    + ['{"recipe": {}}', '{"spec": {}}', '{"recipe": {}, "spec": {}}', '{"spec": [], "input": {}}']
    + [
        a_config(**changes)
        for changes in (
            {"spec": {"name": "learner"}},
            {"spec": {"name": "vmap_seeds", "learner": 3}},
            {"spec": spec(adapter={"name": 3})},
            {"spec": spec(adapter={"name": "no_such_adapter"})},
            {"spec": spec(adapter={"name": "maml", "no_such_argument": 3})},
            {"input": []},
            {"input": {"shape": 3, "dtype": "float32"}},
            {"input": {"shape": [-1], "dtype": "float32"}},
            {"input": {"shape": [1], "dtype": "float99"}},
            {"seeds": "two"},
            {"seeds": 0},
        )
    ],
)
def test_a_config_that_is_no_recipe_is_one_line(tmp_path, sampler, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError) as caught, usage_errors():
        begin(spec(), sampler, init_from=str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_without_flags_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(a_config(flags=None))
    with pytest.raises(UsageError, match=f"--init_from={tmp_path}: its config.json has no flags"):
        read_origin(str(tmp_path))
