"""Each continual learner against a plain loop in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jmeta
from jmeta.online import reservoir
from jmeta.online.catalog import LEARNERS, build
from jmeta.types import Batch

draw = jax.jit(reservoir.draw, static_argnums=1)
add_to = jax.jit(reservoir.add)
permuted = jax.jit(jax.random.permutation, static_argnums=1)
split = jax.jit(jax.random.split, static_argnums=1)
fold_in = jax.jit(jax.random.fold_in)

LIMIT = 0.3  # clips in some steps of this small problem and not in others


def observe_all(learner, stream, key, *, first_pass=None):
    """States before and after each step."""
    x, y = (jnp.asarray(part) for part in stream)
    states = [learner.init(jax.random.key(7), x[0])]
    observe = jax.jit(learner.observe)
    for step in range(len(x)):
        state, info = observe(
            states[-1],
            Batch(x[step], y[step]),
            task=jnp.asarray(step // 3, jnp.int32),
            first_pass=jnp.asarray(True if first_pass is None else first_pass[step]),
            key=fold_in(key, step),
        )
        states.append(state)
        assert np.isfinite(info["loss"])
    return states


def real(batch):
    kept = np.asarray(batch.mask) > 0
    return np.asarray(batch.x)[kept], np.asarray(batch.y)[kept]


def glances(state, key, count, glances_each, *, add):
    """Order and draw of each glance of an observation, as meta-replay takes them from its key."""
    key_first, key_add, key_rest = split(key, 3)
    memory = state.memory
    for index in range(glances_each):
        glance_key = key_first if index == 0 else split(key_rest, glances_each - 1)[index - 1]
        key_order, key_draw = split(glance_key, 2)
        yield np.asarray(permuted(key_order, count)), real(draw(memory, 3, key_draw))
        if index == 0:
            memory = add(memory, key_add)


META = {
    "la_maml": (
        {"initial_rate": 0.15, "rate_learning_rate": 0.9},
        reference.la_maml_update(0.9, LIMIT),
        lambda learned: {k: reference.relu(v) for k, v in learned.items()},
    ),
    "la_maml_sync": (
        {"initial_rate": 0.15, "rate_learning_rate": 0.9, "learning_rate": 0.2},
        reference.la_maml_update(0.9, LIMIT, 0.2),
        lambda learned: {k: reference.relu(v) for k, v in learned.items()},
    ),
    "replay_maml": (
        {"inner_rate": 0.15, "learning_rate": 0.2},
        reference.replay_maml_update(0.2),
        lambda learned: dict.fromkeys(reference.KEYS, 0.15),
    ),
    "sparse_la_maml": (
        {"rate": 0.15, "mask_learning_rate": 2.0, "initial_score": 0.02},
        reference.sparse_update(0.15, 2.0, LIMIT),
        lambda learned: {k: 0.15 * (v >= 0) for k, v in learned.items()},
    ),
}


@pytest.mark.parametrize("name", META)
def test_meta_replay_is_the_published_loop(name, model, stream, as_numpy):
    settings, update, rates = META[name]
    shared = {"glances": 2, "capacity": 7, "replay": 3, "clip": LIMIT}
    learner = build(name, model, jmeta.cross_entropy, **settings, **shared)
    key = jax.random.key(3)
    states = observe_all(learner, stream, key)
    params = as_numpy(states[0].params)
    learned = as_numpy(states[0].learned) if states[0].learned else ()
    for step, state in enumerate(states[:-1]):
        batch = stream[0][step], stream[1][step]

        def add(memory, key, batch=batch):
            return add_to(memory, Batch(*map(jnp.asarray, batch)), key)

        for order, drawn in glances(state, fold_in(key, step), 4, 2, add=add):
            params, learned = reference.glance(
                params, learned, rates(learned), order, batch, drawn, update, LIMIT
            )
        for k in reference.KEYS:
            np.testing.assert_allclose(states[step + 1].params[k], params[k], rtol=1e-9, atol=1e-11)
            if learned:
                np.testing.assert_allclose(states[step + 1].learned[k], learned[k], rtol=1e-9, atol=1e-11)
    if learned:  # some rates must have been switched off, or the mask was not tested
        assert any((v < 0).any() for v in learned.values()) and any((v > 0).any() for v in learned.values())


def test_rates_that_never_change_make_all_of_them_replay_maml(model, stream):
    """Synchronous La-MAML that learns no rates, and a mask that never closes."""
    shared = {"glances": 1, "capacity": 7, "replay": 3}
    settings = {
        "replay_maml": {"inner_rate": 0.1, "learning_rate": 0.1},
        "la_maml_sync": {"initial_rate": 0.1, "rate_learning_rate": 0.0, "learning_rate": 0.1},
        "sparse_la_maml": {"rate": 0.1, "mask_learning_rate": 1e-6, "initial_score": 1.0},
    }
    fixed, *others = (
        observe_all(build(name, model, jmeta.cross_entropy, **own, **shared), stream, jax.random.key(1))[-1]
        for name, own in settings.items()
    )
    for other in others:
        for k in reference.KEYS:
            np.testing.assert_allclose(other.params[k], fixed.params[k], rtol=1e-12)


def test_the_last_meta_loss_judges_the_end_of_the_look_ahead_alone(model, stream):
    """Its gradient in the weights is that of the judging loss at phi_n, with phi_n by hand."""
    from jmeta.online.meta_replay import look_ahead
    from jmeta.online.state import loss_of

    x, y = stream[0][0], stream[1][0]
    params = model.init(jax.random.key(0), jnp.asarray(x))[0]
    rates = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), params)
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    ours = look_ahead(loss_of(model, jmeta.cross_entropy), params, rates, batch, batch, "last")
    phi = {k: np.asarray(v) for k, v in params.items()}
    total = {k: np.zeros_like(v) for k, v in phi.items()}
    for i in range(len(y)):
        g = reference.gradient(phi, x[i : i + 1], y[i : i + 1])
        phi = {k: phi[k] - 0.1 * g[k] for k in reference.KEYS}
        total = {k: total[k] + g[k] for k in reference.KEYS}
    outer = reference.gradient(phi, x, y)
    for k in reference.KEYS:
        np.testing.assert_allclose(ours.grads[k], outer[k], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ours.rate_grads[k], -outer[k] * total[k], rtol=1e-9, atol=1e-12)


def test_mer_is_the_published_loop(model, stream, as_numpy):
    settings = {"learning_rate": 0.3, "within": 0.2, "across": 0.7, "batches": 2, "capacity": 5, "replay": 3}
    learner = build("mer", model, jmeta.cross_entropy, **settings)
    key = jax.random.key(3)
    states = observe_all(learner, stream, key)
    params, memory = as_numpy(states[0].params), states[0].memory
    for step in range(6):
        keys = split(fold_in(key, step), 4)
        for i in range(4):
            key_add, key_draw = split(keys[i], 2)
            draws = [real(draw(memory, 3, k)) for k in split(key_draw, 2)]
            current = stream[0][step][i], stream[1][step][i]
            params = reference.mer_example(params, current, draws, 0.3, 0.2, 0.7)
            memory = add_to(memory, Batch(*(jnp.asarray(part)[None] for part in current)), key_add)
        for k in reference.KEYS:
            np.testing.assert_allclose(states[step + 1].params[k], params[k], rtol=1e-9, atol=1e-11)


def test_replay_and_plain_descent_are_their_loops(model, stream, as_numpy):
    key = jax.random.key(3)
    plain = observe_all(build("sgd", model, jmeta.cross_entropy, learning_rate=0.2), stream, key)
    settings = {"learning_rate": 0.2, "capacity": 5, "replay": 3}
    replayed = observe_all(build("er", model, jmeta.cross_entropy, **settings), stream, key)
    for states, draws in ((plain, False), (replayed, True)):
        for step in range(6):
            x, y = stream[0][step], stream[1][step]
            if draws:
                key_draw, _ = split(fold_in(key, step), 2)
                drawn = real(draw(states[step].memory, 3, key_draw))
                x, y = np.concatenate([x, drawn[0]]), np.concatenate([y, drawn[1]])
            before = as_numpy(states[step].params)
            g = reference.gradient(before, x, y)
            for k in reference.KEYS:
                np.testing.assert_allclose(states[step + 1].params[k], before[k] - 0.2 * g[k], rtol=1e-9)


def flat(tree):
    return np.concatenate([np.ravel(tree[k]) for k in sorted(tree)])


def test_gem_steps_along_the_projected_gradient(model, stream, as_numpy):
    from test_projection import reference as solve

    learner = build("gem", model, jmeta.cross_entropy, tasks=2, learning_rate=0.2, slots=5, margin=0.1)
    states = observe_all(learner, stream, jax.random.key(0))
    x, y = stream
    past_x, past_y = x[:3].reshape(12, -1), y[:3].reshape(12)
    ring = [10, 11, 7, 8, 9]  # the last five of the twelve examples of task 0, where the ring put them
    np.testing.assert_allclose(states[3].memory.examples.x[0], past_x[ring])
    conflicts = 0
    for step in range(6):
        before = as_numpy(states[step].params)
        g = flat(reference.gradient(before, x[step], y[step]))
        if step >= 3:
            row = flat(reference.gradient(before, past_x[ring], past_y[ring]))
            if row @ g < 0:
                conflicts += 1
                gram = np.array([[row @ row + 1e-3]])
                v = 0.1 + solve(gram, np.array([row @ g]) + gram @ [0.1])
                g = g + v[0] * row
        np.testing.assert_allclose(flat(as_numpy(states[step + 1].params)), flat(before) - 0.2 * g, rtol=1e-8)
    assert conflicts


def test_agem_takes_out_the_part_against_the_past(model, stream, as_numpy):
    learner = build("agem", model, jmeta.cross_entropy, tasks=2, learning_rate=0.2, slots=5, replay=4000)
    states = observe_all(learner, stream, jax.random.key(0))
    x, y = stream
    held = np.arange(7, 12)
    for step in range(6):
        before = as_numpy(states[step].params)
        g = flat(reference.gradient(before, x[step], y[step]))
        move = (flat(before) - flat(as_numpy(states[step + 1].params))) / 0.2
        if step < 3:
            np.testing.assert_allclose(move, g, rtol=1e-8)
            continue
        row = flat(reference.gradient(before, x[:3].reshape(12, -1)[held], y[:3].reshape(12)[held]))
        expected = g - min(row @ g, 0) / (row @ row) * row  # of all that is held: many draws come near
        np.testing.assert_allclose(move, expected, atol=0.08 * np.abs(g).max())
        assert not np.allclose(move, g) or row @ g > -1e-2


def test_examples_enter_the_memory_in_the_first_pass_only(model, stream):
    learner = build("la_maml", model, jmeta.cross_entropy, glances=1, capacity=50, replay=2)
    states = observe_all(
        learner, stream, jax.random.key(0), first_pass=[True, True, False, False, True, False]
    )
    assert [int(state.memory.seen) for state in states] == [0, 4, 8, 8, 8, 12, 12]


def test_what_cannot_be_is_said(model):
    with pytest.raises(ValueError, match="no continual learner is called 'lamaml'; choose one of sgd, er"):
        build("lamaml", model, jmeta.cross_entropy)
    with pytest.raises(ValueError, match="la_maml: glances=0; expected a positive number"):
        build("la_maml", model, jmeta.cross_entropy, glances=0)
    for name, setting in {
        "la_maml": "initial_rate", "la_maml_sync": "learning_rate", "sparse_la_maml": "rate",
        "replay_maml": "inner_rate",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"{setting}=-1; expected a positive number"):
            build(name, model, jmeta.cross_entropy, **{setting: -1})
    with pytest.raises(ValueError, match="meta_loss='first'; expected one of mean, last"):
        build("la_maml", model, jmeta.cross_entropy, meta_loss="first")
    with pytest.raises(ValueError, match="reservoir: capacity=0|capacity=0; expected a positive"):
        build("er", model, jmeta.cross_entropy, capacity=0)
    counting = model._replace(init=lambda key, x: ({}, {"mean": jnp.zeros(1)}))
    with pytest.raises(ValueError, match="models without state"):
        build("sgd", counting, jmeta.cross_entropy).init(jax.random.key(0), jnp.zeros((2, 6)))
    assert set(LEARNERS) == {
        "sgd", "er", "gem", "agem", "mer", "la_maml", "la_maml_sync", "replay_maml", "sparse_la_maml",
    }  # fmt: skip
