"""Analytic counts against the paper's figures, and against what XLA counts of one step."""

import jax
import jax.numpy as jnp
import pytest

from jmeta.memory.cl_lstm import cl_lstm
from jmeta.memory.cost import cl_lstm_flops, conv_encoder_flops


def test_the_papers_figures():
    assert cl_lstm_flops((28, 28, 1), 5) == pytest.approx(0.404e9, rel=2e-3)
    assert cl_lstm_flops((32, 32, 3), 5) == pytest.approx(0.54e9, rel=1e-2)
    assert cl_lstm_flops((28, 28, 1), 20) == pytest.approx(0.46e9, rel=1e-2)
    assert conv_encoder_flops((28, 28, 1), filters=256) == pytest.approx(0.303e9, rel=5e-3)


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
