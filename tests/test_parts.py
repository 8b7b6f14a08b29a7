"""Objects that are not what their place takes, each refused in one sentence with what makes it fit."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

import jmeta
from jmeta.parts import named_arguments

NET = jmeta.from_pair(lambda key, x: jnp.ones((x.shape[1], 3), x.dtype), lambda params, x: x @ params)
LOSS, SGD = jmeta.cross_entropy, jmeta.sgd(0.1)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: jmeta.gradient_adapter(nn.Dense(3), LOSS, SGD, 1), "model is a Dense.*jmeta.from_linen"),
        (lambda: jmeta.gradient_adapter("mlp", LOSS, SGD, 1), "model is 'mlp'; expected a Model"),
        (lambda: jmeta.gradient_adapter(NET, LOSS, optax.sgd(0.1), 1), "expected a Rule: jmeta.from_optax"),
        (lambda: jmeta.gradient_adapter(NET, LOSS, 0.1, 1), r"rule is 0.1.*jmeta.sgd\(0.1\)"),
        (lambda: jmeta.inner_loop(LOSS, 0.1, (), jnp.ones(2), 1), r"inner_loop: rule is 0.1.*jmeta.sgd"),
        (lambda: jmeta.clip_gradients(optax.sgd(0.1), 1.0), "clip_gradients: rule.*jmeta.from_optax"),
        (lambda: jmeta.as_optax(optax.sgd(0.1), ()), "as_optax: rule.*jmeta.from_optax"),
        (lambda: jmeta.from_optax(SGD), "from_optax: got a Rule"),
        (lambda: jmeta.learner(nn.Dense(3), LOSS, optax.sgd(0.1)), "got a Dense.*from_linen"),
        (lambda: jmeta.learner(NET, LOSS, 0.1), "tx is 0.1; expected an optax transformation"),
        (lambda: jmeta.from_linen(nn.Dense), "the class Dense.*build it first"),
        (lambda: jmeta.from_pair(LOSS, lambda params, rng, x: x), r"apply\(params, rng, x\).*haiku"),
    ],
)  # fmt: skip
def test_what_is_no_model_rule_or_transformation(build, words):
    with pytest.raises(TypeError, match=words) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_an_nnx_module_is_given_as_a_function():
    nnx = pytest.importorskip("flax.nnx")
    module = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="from_nnx: got a Linear; expected a function"):
        jmeta.from_nnx(module)
    with pytest.raises(TypeError, match="model is a Linear.*jmeta.from_nnx"):
        jmeta.gradient_adapter(module, LOSS, SGD, 1)


def test_options_are_given_by_name():
    options = {"step": 1, "start": 2}
    assert named_arguments(lambda outputs, *, step: None, **options) == {"step": 1}
    assert named_arguments(functools.partial(lambda a, start: None, 1), **options) == {"start": 2}
    assert named_arguments(dict.get, **options) == {}


def test_parameters_are_floating():
    counted = {"w": jnp.ones(2), "count": jnp.zeros(3, jnp.int32)}
    with pytest.raises(ValueError, match=r"parameter count is int32\[3\]; expected floating arrays"):
        jmeta.inner_loop(lambda params, step: params["w"].sum(), SGD, (), counted, 1)
    network = jmeta.from_pair(lambda key, x: counted, lambda params, x: x @ params["w"])
    learner = jmeta.learner(network, LOSS, optax.sgd(0.1))
    with pytest.raises(ValueError, match="learner: the meta-parameter count is int32"):
        learner.init(jax.random.key(0), jnp.ones((4, 2)))
    adapter = jmeta.gradient_adapter(network, LOSS, SGD, 1, adapted=["count"])
    with pytest.raises(ValueError, match="gradient_adapter: the parameter count is int32"):
        adapter.init(jax.random.key(0), jnp.ones((4, 2)))
