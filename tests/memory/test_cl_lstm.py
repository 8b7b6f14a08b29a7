"""CL+LSTM against its equations written out, one step after another, with lax convolutions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta.data.streams.delayed import delayed
from jmeta.memory.cl_lstm import cl_lstm
from jmeta.metrics import accuracy_by_shot
from jmeta.models.cells import apply_gates, lstm_cell

WAY = 3


def conv(x, kernel):
    return lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID")


def cell(gates, state):
    size = gates.shape[-1] // 4
    i, f, g, o = (gates[..., k * size : (k + 1) * size] for k in range(4))
    state = jax.nn.sigmoid(f) * state + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(state), state


def by_hand(params, xs, feedback, skip):
    """The pseudo-code of the paper's Algorithm 1, in a Python loop."""
    size = params.cells[0].recurrent.shape[2]
    shapes = [(xs.shape[1] // 2**layer, xs.shape[2] // 2**layer, size) for layer in range(4)]
    state = [(jnp.zeros(shape), jnp.zeros(shape)) for shape in shapes]
    hidden = params.lstm.recurrent.shape[0]
    last, logits = (jnp.zeros(hidden), jnp.zeros(hidden)), []
    for x, label in zip(xs, feedback):
        onehot = (jnp.arange(WAY) == label).astype(x.dtype)  # nothing for -1
        inputs, pooled = x, []
        for layer in range(4):
            weights, labels = params.cells[layer], params.labels[layer]
            gates = (
                conv(inputs, weights.inputs)
                + conv(state[layer][0], weights.recurrent)
                + weights.bias[None, None]
            )
            if labels is not None:
                gates += conv(jnp.broadcast_to(onehot[None, None], (*inputs.shape[:2], WAY)), labels)
            state[layer] = cell(gates, state[layer][1])
            pooled.append(pool(state[layer][0]))
            inputs = pooled[-1]
            if layer == 2 and skip == "add":
                inputs = inputs + pool(pooled[1])
            if layer == 2 and skip == "concat":
                inputs = jnp.concatenate([inputs, pool(pooled[1])], -1)
        features = jnp.concatenate([state[3][0].reshape(-1), onehot])
        gates = features @ params.lstm.inputs + last[0] @ params.lstm.recurrent + params.lstm.bias
        last = cell(gates, last[1])
        logits.append(last[0] @ params.head + params.bias)
    return jnp.stack(logits)


def stream(time=6, size=9, delay=1):
    x = jax.random.normal(jax.random.key(1), (time, size, size, 2), jnp.float64)
    y = jax.random.randint(jax.random.key(2), (time,), 0, WAY)
    feedback = jnp.concatenate([jnp.full(delay, -1), y[: time - delay]])
    return jmeta.Stream(x, y, feedback)


def start(**options):
    memory = cl_lstm(WAY, filters=4, hidden=5, **options)
    return memory, jax.jit(memory.init)(jax.random.key(0), stream().x)[0]


@pytest.mark.parametrize(
    ("inject", "skip", "time"), [("first", "add", 3), ("all", "concat", 2), ("lstm", "none", 2)]
)
def test_equals_the_python_loop_in_values_and_gradients(inject, skip, time):
    memory, params = start(inject=inject, skip=skip)
    data = stream(time=time)

    def ours(params):
        outputs = jmeta.unroll(memory, params, {}, data, remat_every=2).outputs
        return memory.loss(outputs, data), outputs

    def theirs(params):
        outputs = by_hand(params, data.x, data.feedback, skip)
        log_p = outputs - jax.scipy.special.logsumexp(outputs, axis=1, keepdims=True)
        return -log_p[jnp.arange(len(data.y)), data.y].sum(), outputs

    (value, outputs), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)
    (expected, reference), slopes = jax.jit(jax.value_and_grad(theirs, has_aux=True))(params)
    np.testing.assert_allclose(outputs, reference, rtol=0, atol=1e-10)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    for mine, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-10)
        assert np.abs(other).max() > 0


def test_relabeled_streams_give_relabeled_logits():
    """Of the network whose weights are permuted as the labels are."""
    memory, params = start(inject="all")
    data, order, features = stream(time=4), jnp.array([2, 0, 1]), params.lstm.inputs.shape[0] - WAY
    inverse = jnp.argsort(order)
    relabeled = data._replace(
        y=order[data.y], feedback=jnp.where(data.feedback < 0, -1, order[data.feedback])
    )
    permuted = params._replace(
        labels=[kernel[:, :, inverse] for kernel in params.labels],
        lstm=params.lstm._replace(
            inputs=jnp.concatenate([params.lstm.inputs[:features], params.lstm.inputs[features:][inverse]])
        ),
        head=params.head[:, inverse],
        bias=params.bias[inverse],
    )
    one = jmeta.unroll(memory, params, {}, data).outputs
    other = jmeta.unroll(memory, permuted, {}, relabeled).outputs
    np.testing.assert_allclose(other[:, order], one, rtol=1e-9)


def test_without_labels_each_shot_is_left_to_chance():
    """Labels are drawn for classes at random in each task, so that images alone tell nothing of them."""
    images = np.random.default_rng(0).normal(size=(18, 8, 8, 1)).astype(np.float32)
    data = jmeta.from_arrays(images, np.repeat(np.arange(6), 3))
    draw = jmeta.online_few_shot(jmeta.episodes(data, way=WAY, shot=2, query=1))
    streams = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 600))
    memory = cl_lstm(WAY, filters=4, hidden=5)
    params, _ = memory.init(jax.random.key(0), streams.x[0])
    blind = streams._replace(feedback=jnp.full_like(streams.feedback, -1))
    run = jax.jit(jax.vmap(lambda stream: jmeta.unroll(memory, params, {}, stream)[0]))
    logits = run(blind)
    accuracies = jax.vmap(lambda *pair: accuracy_by_shot(*pair, shots=2))(logits, blind)
    assert len(jnp.unique(logits.argmax(-1))) > 1  # or it would be 1 / 3 whatever the images are
    for values in accuracies.values():
        assert abs(values.mean() - 1 / WAY) < 4.5 * (2 / 9 / 1800) ** 0.5


@pytest.mark.slow
def test_learns_to_bind_labels_to_images():
    """Classes are noise of 8x8, examples those with more noise: acc_1 > 0.85 within 1,500 updates."""
    tasks, way, shot, updates = 32, 3, 3, 1500

    def draw(key):
        keys = jax.random.split(key, 3)
        prototypes = jax.random.normal(keys[0], (way, 8, 8, 1), jnp.float32)
        y = jax.random.permutation(keys[1], jnp.repeat(jnp.arange(way), shot))
        x = prototypes[y] + 0.3 * jax.random.normal(keys[2], (way * shot, 8, 8, 1), jnp.float32)
        return jmeta.Stream(x, y, delayed(y, 1))

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    learner = jmeta.learner(cl_lstm(way, filters=8, hidden=64), None, tx, chunk=8)
    measure = jax.vmap(lambda *pair: accuracy_by_shot(*pair, shots=2))

    @jax.jit
    def train(key):
        state = learner.init(key, draw(key))
        keys = jax.random.split(key, updates * tasks).reshape(updates, tasks)
        return jax.lax.scan(lambda s, k: (learner.step(s, jax.vmap(draw)(k))[0], None), state, keys)[0]

    state, memory = train(jax.random.key(0)), cl_lstm(way, filters=8, hidden=64)
    test = jax.vmap(draw)(jax.random.split(jax.random.key(1), 500))
    logits = jax.jit(jax.vmap(lambda s: jmeta.unroll(memory, state.meta, {}, s, train=False)[0]))(test)
    accuracy = {name: float(values.mean()) for name, values in measure(logits, test).items()}
    assert accuracy["accuracy_1_shot"] > 0.85 and accuracy["accuracy_2_shot"] > 0.85


@pytest.mark.parametrize("delay", [1, 3])
def test_nothing_leaks_before_it_has_arrived(delay):
    """A changed label changes no prediction before it arrives, a changed image none before its step."""
    memory, params = start()
    base = stream(delay=delay)
    run = jax.jit(lambda s: jmeta.unroll(memory, params, {}, s)[0])
    outputs = run(base)
    assert (base.feedback[:delay] == -1).all()
    for step in range(6):
        y = base.y.at[step].add(1) % WAY
        changed = run(base._replace(y=y, feedback=jnp.concatenate([jnp.full(delay, -1), y[: 6 - delay]])))
        arrived = step + delay
        assert (changed[:arrived] == outputs[:arrived]).all()
        if arrived < 6:
            assert (changed[arrived] != outputs[arrived]).any()
        other_image = run(base._replace(x=base.x.at[step].add(1.0)))
        assert (other_image[:step] == outputs[:step]).all() and (other_image[step] != outputs[step]).any()


def test_parameters_and_states_have_the_papers_sizes():
    memory = cl_lstm(5)
    x = jnp.zeros((2, 28, 28, 1), jnp.float32)
    params, _ = jax.jit(memory.init)(jax.random.key(0), x)
    size = lambda tree: ravel_pytree(tree)[0].size  # noqa: E731
    assert size(params) == 1_906_437
    kernels = [size((c.inputs, c.recurrent, k)) for c, k in zip(params.cells, params.labels)]
    assert kernels == [161_280, 294_912, 294_912, 294_912]
    assert size(params.lstm) - 1024 == 857_088 and size((params.head, params.bias)) == 1_285
    carry = jax.eval_shape(
        lambda: memory.carry(params, memory.prepare(params, {}, x, jnp.array([-1, 0]), train=True)[0])
    )
    assert [output.shape for output, _ in carry.layers] == [
        (28, 28, 64), (14, 14, 64), (7, 7, 64), (3, 3, 64)
    ]  # fmt: skip
    assert carry.lstm[0].shape == (256,)
    wide = jax.eval_shape(cl_lstm(5, skip="concat").init, jax.random.key(0), x)[0]
    assert 2.04e6 < sum(leaf.size for leaf in jax.tree.leaves(wide)) < 2.06e6


def test_a_cell_from_rest_is_the_closed_form():
    gates = jax.random.normal(jax.random.key(0), (7, 12))
    output, _ = apply_gates(gates, jnp.zeros((7, 3)))
    i, _, g, o = jnp.split(gates, 4, -1)
    expected = jax.nn.sigmoid(o) * jnp.tanh(jax.nn.sigmoid(i) * jnp.tanh(g))
    np.testing.assert_allclose(output, expected, rtol=1e-12)


def test_recurrent_kernels_start_orthogonal_and_forget_gates_open():
    weights = lstm_cell(jax.random.key(0), 4, 6, jnp.float64)
    for kernel in jnp.split(weights.recurrent, 4, 1):
        np.testing.assert_allclose(kernel.T @ kernel, jnp.eye(6), atol=1e-6)
    assert weights.bias.tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 12


@pytest.mark.parametrize("make", [lambda: cl_lstm(5, inject="second"), lambda: cl_lstm(5, skip="twice")])
def test_unknown_settings(make):
    with pytest.raises(ValueError, match="expected one of"):
        make()


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 8x8"):
        cl_lstm(5).init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
