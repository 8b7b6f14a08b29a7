"""CPM and the loss of the prototype memories against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta.data.streams.delayed import delayed
from jmeta.memory.prototypes import UNKNOWN, Prediction, cpm, known_and_new_loss

WAY, SIZE, HIDDEN, DELAY = 3, 3, 5, 2
LABELS = np.array([0, 1, 0, 2, 1, 0, 2])


def _sigmoid(values):
    return 1 / (1 + np.exp(-values))


def _softplus(values):
    return np.log1p(np.exp(values))


def _unroll(params, x):
    """Logits, novelty and prototypes of CPM on a stream, by the equations of Ren et al. 2021, section 4."""
    output, state = np.zeros(HIDDEN), np.zeros(HIDDEN)
    means, known, placed, predictions = np.zeros((WAY, SIZE)), np.zeros(WAY, bool), [], []
    for time, z in enumerate(x):
        gates = (z @ params.lstm.inputs + output @ params.lstm.recurrent).reshape(4, HIDDEN)
        gates = (gates - gates.mean(1, keepdims=True)) / np.sqrt(gates.var(1, keepdims=True) + 1e-5)
        i, f, g, o = gates * params.scale + params.lstm.bias.reshape(4, HIDDEN)
        state = _sigmoid(f) * state + _sigmoid(i) * np.tanh(g)
        output = _sigmoid(o) * np.tanh(state)
        context = output @ params.readout + params.bias
        shift, comparison = context[:SIZE], _softplus(context[SIZE : 2 * SIZE])
        scale, threshold = context[2 * SIZE :]
        if time >= DELAY:
            label, arrived = LABELS[time - DELAY], placed[time - DELAY]
            gate = _sigmoid(np.concatenate([arrived, means[label]]) @ params.write + params.write_bias)
            means[label] = (1 - gate) * means[label] + gate * arrived
            known[label] = True
        placed.append(z + shift)
        here, there = comparison * placed[-1], comparison * means
        norms = np.linalg.norm(here) * np.linalg.norm(there, axis=1)
        logits = params.temperature * (there @ here) / np.where(known, norms, 1)
        novelty = ((-logits).min() - threshold) / _softplus(scale + 1)
        predictions.append((np.where(known, logits, UNKNOWN), novelty))
    return [np.stack(part) for part in zip(*predictions)], means


def test_cpm_by_hand():
    random = np.random.default_rng(0)
    x, y = jnp.asarray(random.normal(size=(len(LABELS), SIZE))), jnp.asarray(LABELS)
    memory = cpm(WAY, jmeta.mlp(widths=()), delay=DELAY, hidden=HIDDEN)
    params, state = jax.jit(memory.init)(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), params)._replace(temperature=7.0)

    stream = jmeta.Stream(x, y, delayed(y, DELAY))
    outputs, carry, _ = jax.jit(lambda p: jmeta.unroll(memory, p, state, stream))(params)
    (logits, novelty), means = _unroll(params, np.asarray(x))
    np.testing.assert_allclose(outputs.logits, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs.novelty, novelty, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(carry.prototypes.means, means, rtol=1e-9)


def test_cpm_begins_with_a_low_threshold_of_novelty():
    """Without context, novelty is (least distance + 12) / softplus(1): the first example is new."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, SIZE)))
    memory = cpm(WAY, jmeta.mlp(widths=()), hidden=HIDDEN)
    params, state = jax.jit(memory.init)(jax.random.key(0), x)
    silent = params._replace(readout=jnp.zeros_like(params.readout))
    stream = jmeta.Stream(x, jnp.zeros(1, jnp.int32), jnp.full(1, -1))
    novelty = jmeta.unroll(memory, silent, state, stream).outputs.novelty
    np.testing.assert_allclose(novelty, 12 / _softplus(1.0), rtol=1e-6)
    np.testing.assert_allclose(params.write_bias, -2)


def test_padding_has_no_part_in_the_loss():
    """Neither in the term of novelty nor in that of the label."""
    random = np.random.default_rng(2)
    y, mask = np.array([2, 0, 1, 0, 2]), np.array([1.0, 0, 1, 1, 0])
    logits, novelty = random.normal(size=(5, WAY)), random.normal(size=5)
    logits[0, 2] = logits[2, 0] = UNKNOWN  # the class itself, then another one
    total = 0.0
    for time in np.flatnonzero(mask):
        known = logits[time] > UNKNOWN / 2
        new = not known[y[time]]
        total -= np.log(_sigmoid(novelty[time] if new else -novelty[time]))
        if not new:
            total -= logits[time, y[time]] - np.log(np.exp(logits[time, known]).sum())
    stream = jmeta.Stream(None, jnp.asarray(y), None, jnp.asarray(mask))
    outputs = Prediction(jnp.asarray(logits), jnp.asarray(novelty))
    np.testing.assert_allclose(known_and_new_loss(outputs, stream), total, rtol=1e-9)
