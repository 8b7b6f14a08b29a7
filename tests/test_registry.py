"""The registry: names, recursive specs, and that nothing is imported before it is built."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import registry

MAML = {
    "name": "gradient",
    "model": {"name": "conv4", "filters": 4, "head": 5},
    "loss": {"name": "cross_entropy"},
    "rule": {"name": "clip_gradients", "rule": {"name": "sgd", "rate": 0.01}, "limit": 10.0},
}


def test_a_spec_is_built_with_its_parts():
    adapter = jmeta.build(json.loads(json.dumps(MAML)))
    meta, _ = jax.eval_shape(adapter.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert meta["params"]["head"]["kernel"].shape == (4, 5)
    rule = jmeta.build(MAML["rule"], "rule")
    updates, _ = rule.update((), {"w": jnp.array([50.0])}, (), {"w": jnp.zeros(1)}, loss=0.0, step=0)
    np.testing.assert_allclose(updates["w"], -0.1)


def test_a_loss_is_the_function_itself_with_its_settings():
    logits, batch = jnp.array([[2.0, 0.0]]), jmeta.Batch(jnp.zeros((1, 1)), jnp.array([0]))
    smoothed = jmeta.build({"name": "cross_entropy", "smoothing": 0.2}, "loss")
    assert smoothed(logits, batch) == jmeta.cross_entropy(logits, batch, smoothing=0.2)


def test_objects_that_a_spec_cannot_hold_go_to_the_outermost_factory():
    rate = jnp.asarray(0.25)
    learner = jmeta.build({"name": "sgd", "model": {"name": "mlp", "outputs": 2}}, "online",
                          loss=jmeta.cross_entropy, learning_rate=rate)  # fmt: skip
    assert isinstance(learner, jmeta.Online)


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ({"name": "mamll"}, "adapter", "no adapter is called 'mamll'; expected one of maml"),
        ({"name": "sgdd", "rate": 1.0}, "rule", "no rule is called 'sgdd'; expected one of sgd"),
        (
            {**MAML, "rule": {"name": "turtel"}},
            "adapter",
            "no rule is called 'turtel'; expected one of turtle",
        ),
    ],
)
def test_unknown_names_are_refused_with_near_ones(spec, kind, words):
    with pytest.raises(ValueError, match=words):
        jmeta.build(spec, kind)


def test_a_name_of_another_kind_and_what_is_no_spec():
    for spec, kind, words in (({"name": "protonet", "way": 5}, "adapter", "'protonet' is no adapter.*'head'"),
                              ({"name": "la_maml"}, "adapter", "kind='online'"),
                              ("maml", "adapter", "'maml' is no spec; expected a dictionary with a name"),
                              ({"nam": "maml"}, "adapter", "is no spec"),
                              ({"name": "maml"}, "nonsense", "no kind is called 'nonsense'")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            jmeta.build(spec, kind)


def test_what_a_name_fixes_is_not_left_to_a_spec():
    assert "order" in registry.parameters("adapter", "maml")
    assert not {"order", "remat"} & set(registry.parameters("adapter", "fomaml"))
    spec = {"name": "fomaml", "model": MAML["model"], "loss": MAML["loss"]}
    jmeta.build(spec)
    with pytest.raises(
        ValueError, match=r"fomaml: order='first' is what the name says; leave \['order'\] out"
    ):
        jmeta.build(spec | {"order": "mixed"})


def test_one_name_may_be_of_several_kinds_but_not_among_what_an_outer_loop_takes():
    assert "sgd" in registry.RULES and "sgd" in registry.ONLINE
    assert "maml" in registry.ADAPTERS and "maml" in registry.OSAKA
    names = [name for kind in ("adapter", "memory", "model") for name in registry.REGISTRY[kind]]
    assert len(set(names)) == len(names)


def test_making_maml_imports_neither_an_ode_solver_nor_a_memory():
    code = (
        "import sys, jmeta\n"
        "assert not {'jax', 'numpy'} & set(sys.modules), 'importing jmeta is not light'\n"
        f"jmeta.build({MAML!r})\n"
        "solvers = ('diffrax', 'optimistix', 'orbax')\n"
        "heavy = [name for name in sys.modules if name.partition('.')[0] in solvers\n"
        "         or name.startswith(('jmeta.inner.flow', 'jmeta.memory', 'jmeta.online', 'jmeta.data.'))]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        (MAML | {"inner_stepz": 3}, "adapter", "adapter 'gradient': .*'inner_stepz'.*; expected inner_steps"),
        (
            MAML | {"model": {"name": "mlp", "output": 5}},
            "adapter",
            "model 'mlp': .*'output'.*expected outputs",
        ),
        (
            {"name": "turtle", "hidden_unit": 3},
            "rule",
            "rule 'turtle': .*'hidden_unit'.*expected hidden_units",
        ),
        ({"name": "cross_entropy", "smooth": 0.1}, "loss", "loss 'cross_entropy': .*expected smoothing"),
        ({"name": "maml", "loss": {"name": "cross_entropy"}}, "adapter", "'maml': its spec has no 'model'"),
    ],
)
def test_arguments_that_a_name_does_not_have_or_lacks(spec, kind, words):
    with pytest.raises(ValueError, match=words):
        jmeta.build(spec, kind)
