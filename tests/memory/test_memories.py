"""Prototype memories and the LSTM: what they remember, by hand; and that nothing leaks through a delay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta.data.streams.delayed import delayed
from jmeta.memory.apl import apl
from jmeta.memory.lstm import lstm
from jmeta.memory.ntm import ntm
from jmeta.memory.prototypes import UNKNOWN, cpm, known_and_new_loss, opn
from jmeta.models.conv_encoder import conv_encoder

WAY = 3


def stream(delay=1, time=6, size=4):
    x = jax.random.normal(jax.random.key(1), (time, size))
    y = jnp.array([0, 1, 0, 2, 1, 0])[:time]
    return jmeta.Stream(x, y, delayed(y, delay))


def unroll_fresh(memory, data, seed=0):
    params, state = memory.init(jax.random.key(seed), data.x)
    return params, jmeta.unroll(memory, params, state, data)


@pytest.mark.parametrize("delay", [1, 2])
def test_opn_compares_with_the_means_of_labeled_examples(delay):
    data = stream(delay)
    _, (outputs, carry, _) = unroll_fresh(opn(WAY, jmeta.mlp(widths=()), delay=delay), data)
    for step in range(6):
        arrived = max(step - delay + 1, 0)
        for label in range(WAY):
            members = data.x[:arrived][data.y[:arrived] == label]
            if len(members):
                expected = -((data.x[step] - members.mean(0)) ** 2).sum()
                np.testing.assert_allclose(outputs.logits[step, label], expected, rtol=1e-9)
            else:
                assert outputs.logits[step, label] == UNKNOWN
        means = [data.x[:arrived][data.y[:arrived] == c] for c in range(WAY)]
        distances = [((data.x[step] - (m.mean(0) if len(m) else 0)) ** 2).sum() for m in means]
        np.testing.assert_allclose(outputs.novelty[step], min(distances) - 10, rtol=1e-9)
    assert carry.counts.sum() == 6 - delay


def test_the_loss_is_among_known_classes_and_of_novelty():
    data = stream()
    memory = opn(WAY, jmeta.mlp(widths=()))
    _, (outputs, *_) = unroll_fresh(memory, data)
    total, known = 0.0, set()
    for step, label in enumerate(data.y.tolist()):
        new = label not in known
        total += optax.sigmoid_binary_cross_entropy(outputs.novelty[step], float(new))
        if not new:
            total -= jax.nn.log_softmax(outputs.logits[step, jnp.array(sorted(known))])[
                sorted(known).index(label)
            ]
        known.add(label)
    np.testing.assert_allclose(known_and_new_loss(outputs, data), total, rtol=1e-9)
    half = data._replace(mask=jnp.array([1.0, 1, 1, 0, 0, 0]))
    assert known_and_new_loss(outputs, half) < total


def test_cpm_averages_by_its_gate_from_zero():
    data = stream()
    memory = cpm(WAY, jmeta.mlp(widths=()), hidden=5)
    params, _ = memory.init(jax.random.key(0), data.x)
    silent = params._replace(readout=0 * params.readout, bias=0 * params.bias, write=0 * params.write)
    for gate_bias, gate in ((-1.0, 1 / (1 + np.e)), (0.0, 0.5), (40.0, 1.0)):
        outputs, carry, _ = jmeta.unroll(memory, silent._replace(write_bias=jnp.asarray(gate_bias)), {}, data)
        first, second = data.x[1], data.x[4]  # of class 1
        np.testing.assert_allclose(
            carry.prototypes.means[1],
            gate * (1 - gate) * first + gate * second, rtol=1e-9,
        )  # fmt: skip
        known = data.x[1] @ data.x[0] / np.linalg.norm(data.x[1]) / np.linalg.norm(data.x[0])
        np.testing.assert_allclose(outputs.logits[1, 0], 10 * known, rtol=1e-6)


MEMORIES = {
    "apl": lambda delay: apl(WAY, jmeta.mlp(widths=(5,)), delay=delay, slots=8, neighbors=8, surprise=0),
    "opn": lambda delay: opn(WAY, jmeta.mlp(widths=(5,)), delay=delay),
    "cpm": lambda delay: cpm(WAY, jmeta.mlp(widths=(5,)), delay=delay, hidden=6),
    "lstm": lambda delay: lstm(WAY, hidden=6, layers=2),
    "ntm": lambda delay: ntm(WAY, hidden=6, slots=5, width=4, heads=2),
}


@pytest.mark.parametrize("delay", [1, 3])
@pytest.mark.parametrize("name", MEMORIES)
def test_nothing_leaks_before_it_has_arrived(name, delay):
    memory = MEMORIES[name](delay)
    base = stream(delay)
    params, state = memory.init(jax.random.key(0), base.x)
    run = jax.jit(lambda s: jax.tree.leaves(jmeta.unroll(memory, params, state, s)[0])[0])
    outputs = run(base)
    for step in range(6):
        y = base.y.at[step].set((base.y[step] + 1) % WAY)
        changed = run(base._replace(y=y, feedback=delayed(y, delay)))
        assert (changed[: step + delay] == outputs[: step + delay]).all()
        if step + delay < 6:
            assert (changed[step + delay :] != outputs[step + delay :]).any()
        other_image = run(base._replace(x=base.x.at[step].add(1.0)))
        assert (other_image[:step] == outputs[:step]).all()
        assert name in ("opn", "cpm") or (other_image[step] != outputs[step]).any()


@pytest.mark.parametrize("name", MEMORIES)
def test_gradients_are_finite_from_the_first_step(name):
    data, memory = stream(), MEMORIES[name](1)
    params, state = memory.init(jax.random.key(0), data.x)

    def loss(params):
        return memory.loss(jmeta.unroll(memory, params, state, data)[0], data)

    gradient = jax.jit(jax.grad(loss))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_the_lstm_by_hand():
    data = stream(time=3)
    memory = lstm(WAY, hidden=5)
    params, (outputs, *_) = unroll_fresh(memory, data)
    cell, output, state = params.cells[0], jnp.zeros(5), jnp.zeros(5)
    for step in range(3):
        label = (jnp.arange(WAY) == data.feedback[step]) * 1.0
        gates = jnp.concatenate([data.x[step], label]) @ cell.inputs + output @ cell.recurrent + cell.bias
        i, f, g, o = jnp.split(gates, 4)
        state = jax.nn.sigmoid(f) * state + jax.nn.sigmoid(i) * jnp.tanh(g)
        output = jax.nn.sigmoid(o) * jnp.tanh(state)
        np.testing.assert_allclose(outputs[step], output @ params.head + params.bias, rtol=1e-9)


def test_a_frozen_encoder_does_not_learn():
    data = stream()
    for frozen in (True, False):
        memory = lstm(WAY, encoder=jmeta.mlp(widths=(4,)), hidden=5, frozen=frozen)
        params, state = memory.init(jax.random.key(0), data.x)
        gradient = jax.jit(
            jax.grad(lambda p, m=memory, s=state: m.loss(jmeta.unroll(m, p, s, data)[0], data))
        )(params)
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient.encoder)) == frozen


def test_the_encoder_treats_each_image_on_its_own():
    encoder = conv_encoder(filters=8, pooled=(True, False), groups=2)
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    params, state = encoder.init(jax.random.key(1), x)
    together = encoder.apply(params, state, x, train=True)[0]
    alone = encoder.apply(params, state, x[1:2], train=True)[0]
    assert together.shape == (3, 128)
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="expected a multiple"):
        conv_encoder(filters=9)


def test_a_learner_trains_a_memory():
    """On streams of Gaussian classes, whose second presentation can be recognized."""
    from jmeta.data.streams.delayed import online_few_shot

    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((40, 1, 4)) + 0.3 * rng.standard_normal((40, 6, 4))
    data = jmeta.from_arrays(x.reshape(-1, 4).astype(np.float32), np.repeat(np.arange(40), 6))
    sampler = online_few_shot(jmeta.episodes(data, way=WAY, shot=2, query=1))
    shots = lambda outputs, s: jmeta.accuracy_by_shot(outputs.logits, s, shots=2)  # noqa: E731
    learner = jmeta.learner(opn(WAY, jmeta.mlp(widths=(8,))), None, optax.adam(0.01), metrics=shots)
    state = learner.init(jax.random.key(0), sampler(jax.random.key(0)))
    step = jax.jit(lambda s, k: learner.step(s, jax.vmap(sampler)(jax.random.split(k, 16))))
    losses = []
    for key in jax.random.split(jax.random.key(1), 60):
        state, metrics = step(state, key)
        losses.append(float(metrics["loss"].mean()))
    assert losses[-1] < 0.7 * losses[0]
    values = jmeta.evaluate(learner, state, sampler, num_tasks=50, key=jax.random.key(2))
    assert values["accuracy_1_shot"].mean() > 0.9 > 0.7 > values["accuracy_0_shot"].mean()
    with pytest.raises(ValueError, match="needs a loss"):
        jmeta.learner(
            jmeta.gradient_adapter(jmeta.mlp(outputs=1), shots, jmeta.sgd(0.1), 1), None, optax.sgd(0.1)
        )


def test_the_ntm_by_hand():
    """One head and a gate that is open or closed: it writes where it read last, or on the least used slot."""
    data = stream(time=4)
    memory = ntm(WAY, hidden=5, slots=3, width=2, heads=1, decay=0.5)
    params, _ = memory.init(jax.random.key(0), data.x)
    for bias, again in ((40.0, True), (-40.0, False)):
        gated = params._replace(heads_bias=params.heads_bias.at[-1].set(bias))
        inputs, _ = memory.prepare(gated, {}, data.x, data.feedback, train=True)
        carry = memory.carry(gated, inputs)
        usage, read = np.array([1.0, 0, 0]), np.array([1.0, 0, 0])
        slots = np.full((3, 2), 1e-6)
        for step in range(4):
            carry, logits = memory.step(gated, carry, inputs[step])
            request = carry.controller[0] @ gated.heads + gated.heads_bias
            key, content = np.tanh(request[:2]), np.tanh(request[2:4])
            unused = np.eye(3)[np.argmin(usage)]
            write = read if again else unused
            slots = slots * (1 - unused)[:, None] + write[:, None] * content[None]
            norm = np.sqrt((slots**2).sum(1) + 1e-8) * np.sqrt((key**2).sum() + 1e-8)
            weights = np.exp(slots @ key / norm)
            read = weights / weights.sum()
            usage = 0.5 * usage + read + write
            np.testing.assert_allclose(carry.memory, slots, rtol=1e-6, atol=1e-12)
            np.testing.assert_allclose(carry.usage, usage, rtol=1e-6)
            outputs = np.concatenate([carry.controller[0], read @ slots])
            np.testing.assert_allclose(logits, outputs @ gated.output + gated.output_bias, rtol=1e-6)
    with pytest.raises(ValueError, match="a slot for each head"):
        ntm(WAY, slots=2, heads=3)
