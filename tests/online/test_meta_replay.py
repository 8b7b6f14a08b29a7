"""La-MAML and its relatives against a plain loop in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from observing import add_to, build_online, draw, fold_in, observe_all, permuted, real, split

import jmeta
from jmeta.online.meta_replay import look_ahead
from jmeta.online.sgd_state import params_loss
from jmeta.types import Batch

LIMIT = 0.3  # clips in some steps of this small problem and not in others


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
    shared = {"glances": 2, "capacity": 7, "replay": 3, "clip_norm": LIMIT}
    learner = build_online(name, model, **settings, **shared)
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
        observe_all(build_online(name, model, **own, **shared), stream, jax.random.key(1))[-1]
        for name, own in settings.items()
    )
    for other in others:
        for k in reference.KEYS:
            np.testing.assert_allclose(other.params[k], fixed.params[k], rtol=1e-12)


def test_the_last_meta_loss_judges_the_end_of_the_look_ahead_alone(model, stream):
    """Its gradient in the weights is that of the judging loss at phi_n, with phi_n by hand."""
    x, y = stream[0][0], stream[1][0]
    params = model.init(jax.random.key(0), jnp.asarray(x))[0]
    rates = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), params)
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    ours = look_ahead(params_loss(model, jmeta.cross_entropy), params, rates, batch, batch, "last")
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


def test_examples_enter_the_memory_in_the_first_pass_only(model, stream):
    learner = build_online("la_maml", model, glances=1, capacity=50, replay=2)
    states = observe_all(
        learner, stream, jax.random.key(0), first_pass=[True, True, False, False, True, False]
    )
    assert [int(state.memory.seen) for state in states] == [0, 4, 8, 8, 8, 12, 12]
