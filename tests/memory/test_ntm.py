"""The NTM of several heads against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.memory.ntm import NTMState, ntm

WAY, HIDDEN, SLOTS, WIDTH, HEADS, DECAY = 3, 5, 6, 2, 2, 0.7


def _sigmoid(values):
    return 1 / (1 + np.exp(-values))


def _cosine(keys, memory):
    return keys @ memory.T / np.sqrt((keys**2).sum(1)[:, None] * (memory**2).sum(1)[None])


def test_every_head_has_a_gate_and_a_slot_and_adds_to_the_usage():
    """Santoro et al. 2016, section 3.2; only the least used of all slots is erased."""
    random = np.random.default_rng(0)
    memory = ntm(WAY, hidden=HIDDEN, slots=SLOTS, width=WIDTH, heads=HEADS, decay=DECAY)
    x, feedback = random.normal(size=(4, 4)), np.array([-1, 0, 2, 1])
    params, _ = memory.init(jax.random.key(0), jnp.asarray(x))
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), params)
    inputs, _ = memory.prepare(params, {}, jnp.asarray(x), jnp.asarray(feedback), train=True)

    slots, usage = random.normal(size=(SLOTS, WIDTH)), random.uniform(size=SLOTS)
    read = random.dirichlet(np.ones(SLOTS), HEADS)
    content, output, state = read @ slots, random.normal(size=HIDDEN), random.normal(size=HIDDEN)
    carry = jax.tree.map(jnp.asarray, NTMState(slots, read, usage, content.reshape(-1), (output, state)))
    step = jax.jit(memory.step)
    for time in range(4):
        label = (np.arange(WAY) == feedback[time]).astype(float)
        seen = np.concatenate([x[time], label, content.reshape(-1)])
        i, f, g, o = np.split(
            seen @ params.controller.inputs + output @ params.controller.recurrent + params.controller.bias, 4
        )
        state = _sigmoid(f) * state + _sigmoid(i) * np.tanh(g)
        output = _sigmoid(o) * np.tanh(state)
        request = (output @ params.heads + params.heads_bias).reshape(HEADS, 2 * WIDTH + 1)
        least = np.argsort(usage)[:HEADS]
        write = np.zeros((HEADS, SLOTS))
        for head in range(HEADS):
            again = _sigmoid(request[head, -1])
            write[head] = again * read[head]
            write[head, least[head]] += 1 - again
        slots = slots.copy()
        slots[least[0]] = 0
        slots = slots + write.T @ np.tanh(request[:, WIDTH:-1])
        weights = np.exp(_cosine(np.tanh(request[:, :WIDTH]), slots))
        read = weights / weights.sum(1, keepdims=True)
        content = read @ slots
        usage = DECAY * usage + read.sum(0) + write.sum(0)

        carry, logits = step(params, carry, inputs[time])
        expected = np.concatenate([output, content.reshape(-1)]) @ params.output + params.output_bias
        np.testing.assert_allclose(carry.memory, slots, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(carry.usage, usage, rtol=1e-6)
        np.testing.assert_allclose(carry.read, read, rtol=1e-6)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
