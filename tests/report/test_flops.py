"""Analytic counts against the paper's figures, and against what XLA counts of one step."""

import jax
import jax.numpy as jnp
import pytest

from jmeta.adapters.anml import anml
from jmeta.adapters.oml import oml
from jmeta.adapters.on_features import Fitted
from jmeta.memory.cl_lstm import cl_lstm
from jmeta.report.flops import Cost, anml_cost, cl_lstm_flops, conv_encoder_flops, oml_cost
from jmeta.rules.sgd import sgd


def test_the_papers_figures():
    assert cl_lstm_flops((28, 28, 1), 5) == pytest.approx(0.404e9, rel=2e-3)
    assert cl_lstm_flops((32, 32, 3), 5) == pytest.approx(0.54e9, rel=1e-2)
    assert cl_lstm_flops((28, 28, 1), 20) == pytest.approx(0.46e9, rel=1e-2)
    assert conv_encoder_flops((28, 28, 1), filters=256) == pytest.approx(0.303e9, rel=5e-3)


def test_the_gradient_learners_beside_the_papers_figures():
    oml = oml_cost((28, 28, 1), 20)
    assert oml.forward == pytest.approx(1.42e9, rel=5e-3)  # the paper, of its own network: 1.46
    head = 2 * (10 * 10 * 256 * 1024 + 1024 * 20)
    assert oml.adaptation - oml.forward == 2 * head
    modulator = 26**2 * 27 * 112 + (11**2 + 3**2) * 9 * 112**2 + 1008 * 2304
    prediction = 26**2 * 27 * 256 + (11**2 + 3**2) * 9 * 256**2 + 2304 * 1000
    assert anml_cost((28, 28, 3), 1000) == Cost(
        2 * (modulator + prediction), 2 * (modulator + 3 * prediction)
    )


@pytest.mark.parametrize(
    ("factory", "counted", "settings"),
    [(oml, oml_cost, {"filters": 16, "strides": (2, 1), "padded": True, "hidden": 32}),
     (anml, anml_cost, {"filters": 32, "modulator_filters": 16})],
)  # fmt: skip
def test_xla_counts_as_much_of_a_forward_pass(factory, counted, settings):
    adapter, x = factory(5, sgd(0.1), **settings), jnp.zeros((1, 24, 24, 16), jnp.float32)
    meta, state = jax.eval_shape(adapter.init, jax.random.key(0), x)

    def forward(meta):
        z, _ = adapter.encode(meta, state, x, train=False)
        fast = Fitted(meta["head"]["params"], None, None)
        return adapter.predict(meta, fast, state, z, None, train=False, mask=None)[0]

    cost = jax.jit(forward).lower(meta).compile().cost_analysis()
    assert cost["flops"] == pytest.approx(counted((24, 24, 16), 5, **settings).forward, rel=0.1)


@pytest.mark.parametrize(("inject", "skip"), [("lstm", "add"), ("lstm", "concat")])
def test_xla_counts_as_much(inject, skip):
    """Of a step without label planes, less the first layer's inputs, which `prepare` has convolved."""
    memory = cl_lstm(5, filters=32, hidden=64, inject=inject, skip=skip)
    x = jnp.zeros((1, 16, 16, 1), jnp.float32)
    params, _ = jax.eval_shape(memory.init, jax.random.key(0), x)
    inputs = jax.eval_shape(lambda p: memory.prepare(p, {}, x, jnp.array([-1]), train=True)[0], params)
    now = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), inputs)
    carry = jax.eval_shape(memory.carry, params, inputs)
    cost = jax.jit(memory.step).lower(params, carry, now).compile().cost_analysis()
    expected = cl_lstm_flops((16, 16, 1), 5, filters=32, hidden=64, inject=inject, skip=skip)
    expected -= 2 * 16 * 16 * 9 * 4 * 32
    assert cost["flops"] == pytest.approx(expected, rel=0.05)
