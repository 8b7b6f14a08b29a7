"""Unrolling: rematerialized, truncated and continued, on a memory small enough to write out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.types import Memory

STREAM = jmeta.Stream(jnp.linspace(0.1, 0.7, 7), jnp.zeros(7), jnp.arange(7) - 1)


def memory():
    """A leaky sum: c <- a c + x + 0.1 feedback, and outputs c^2."""

    def step(params, carry, now):
        carry = params * carry + now[0] + 0.1 * now[1]
        return carry, carry**2

    return Memory(
        init=lambda key, x: (jnp.asarray(0.9), {"count": jnp.zeros(())}),
        prepare=lambda params, state, x, feedback, **_: ((x, feedback * 1.0), state),
        carry=lambda params, inputs: jnp.zeros(()),
        step=step,
        loss=lambda outputs, stream: outputs.sum(),
    )


def by_hand(a, cut=None):
    carry, total = 0.0, 0.0
    for step, (x, feedback) in enumerate(zip(STREAM.x, STREAM.feedback)):
        if cut and step % cut == 0:
            carry = jax.lax.stop_gradient(carry)
        carry = a * carry + x + 0.1 * feedback
        total = total + carry**2
    return total


@pytest.mark.parametrize("remat_every", [None, 1, 2, 3, 7, 10])
@pytest.mark.parametrize("truncate_every", [None, 1, 3])
def test_equals_the_loop(remat_every, truncate_every):
    leaky = memory()

    def total(a):
        periods = {"remat_every": remat_every, "truncate_every": truncate_every}
        return leaky.loss(jmeta.unroll(leaky, a, {}, STREAM, **periods).outputs, STREAM)

    result = jax.value_and_grad(total)(jnp.asarray(0.9))
    expected = jax.value_and_grad(lambda a: by_hand(a, truncate_every))(jnp.asarray(0.9))
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_a_carry_goes_on():
    leaky = memory()
    whole, last, _ = jmeta.unroll(leaky, jnp.asarray(0.9), {}, STREAM)
    halves = [jax.tree.map(lambda a, part=part: a[part], STREAM) for part in (slice(0, 4), slice(4, 7))]
    first, carry, _ = jmeta.unroll(leaky, jnp.asarray(0.9), {}, halves[0])
    second, carry, _ = jmeta.unroll(leaky, jnp.asarray(0.9), {}, halves[1], carry=carry)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-12)
    np.testing.assert_allclose(carry, last, rtol=1e-12)


def test_rematerialization_saves_memory():
    wide = jmeta.Stream(jnp.ones((64, 500)), jnp.zeros(64), jnp.zeros(64))

    def step(params, carry, now):
        for _ in range(5):
            carry = jnp.tanh(params * carry + now[0])
        return carry, carry.sum()

    leaky = memory()._replace(
        step=step, carry=lambda params, inputs: jnp.zeros(500), prepare=lambda p, s, x, f, **_: ((x,), s)
    )

    def temporary(remat_every):
        grad = jax.grad(lambda a: jmeta.unroll(leaky, a, {}, wide, remat_every=remat_every).outputs.sum())
        return jax.jit(grad).lower(0.9).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8) < 0.5 * temporary(None)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="remat_every=0; expected at least 1"):
        jmeta.unroll(memory(), 0.9, {}, STREAM, remat_every=0)
    grows = memory()._replace(step=lambda p, c, now: (jnp.append(c, 1.0), now[0]))
    with pytest.raises(ValueError, match="the memory's carry"):
        jmeta.unroll(grows, 0.9, {}, STREAM)
