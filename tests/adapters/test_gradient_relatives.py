"""MAML's relatives: one outer gradient of each, with all that it learns drawn at random, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_in_numpy import (
    NETWORK,
    WAY,
    derivative,
    draw_task,
    gradient,
    loss,
    move,
    randomize,
    scaled,
)

import jmeta
from jmeta.adapters import maml_pp as pp
from jmeta.adapters import named, t_net

KEY = jax.random.key(3)
LAYERS = ("dense", "head")
RATE, STEPS = 0.3, 2


def outer_gradient(adapter, meta, state, task, key=KEY, objective=jmeta.cross_entropy):
    def value(meta, state, task):
        fast, after, _ = adapter.adapt(meta, state, task.support, key, train=True)
        outputs, after = adapter.predict(meta, fast, after, task.query.x, None, train=True)
        return objective(outputs, task.query), after

    return jax.jit(jax.value_and_grad(value, has_aux=True))(meta, state, task)


def assert_gradient(adapter, reference, *, scale=0.5, seed=1, objective=jmeta.cross_entropy, state=None):
    """Compare an outer gradient, at random meta-parameters, with that of `reference(meta, task)` in NumPy."""
    task = draw_task()
    meta, initial = adapter.init(jax.random.key(0), task.support.x)
    meta = randomize(meta, seed, scale)
    state = initial if state is None else initial | state
    (value, _), grads = outer_gradient(adapter, meta, state, task, objective=objective)
    np.testing.assert_allclose(value, reference(meta, task), rtol=1e-12)
    expected = derivative(lambda meta: reference(meta, task), meta)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), grads, expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected["rule"]):
        in_front_of_norm = jax.tree_util.keystr(path, simple=True, separator="/").startswith("dense/bias")
        assert in_front_of_norm or np.abs(leaf).max() > 1e-6


def descend(meta, task, step):
    """Take the steps `step(k, gradient, parameters, start) -> updates` and return the query loss."""
    params = meta["params"]
    for k in range(STEPS):
        params = move(params, step(k, gradient(params, task.support), params, meta["params"]))
    return loss(params, task.query)


@functools.cache
def options():
    return {"inner_lr": RATE, "inner_steps": STEPS, "order": "exact"}


def test_boil():
    def reference(meta, task):
        return descend(meta, task, lambda k, g, *_: scaled(g, lambda *_: -RATE, ("dense", "norm")))

    assert_gradient(named.boil(NETWORK, jmeta.cross_entropy, **options()), reference)


def test_meta_sgd():
    def reference(meta, task):
        return descend(meta, task, lambda k, g, *_: scaled(g, lambda layer, name: -meta["rule"][layer][name]))

    adapter = named.meta_sgd(NETWORK, jmeta.cross_entropy, inner_steps=STEPS, order="mixed")
    assert_gradient(adapter, reference)


@pytest.mark.parametrize("modes", ["in,out", "out", "filter,in,out"])
def test_meta_curvature(modes):
    def reference(meta, task):
        def step(k, g, *_):
            updates = {}
            for layer in LAYERS:
                own = meta["rule"][layer]
                kernel = g[layer]["kernel"]
                kernel = own["kernel"]["in"] @ kernel if "in" in modes.split(",") else kernel
                kernel = kernel @ own["kernel"]["out"]
                updates[layer] = {"kernel": -RATE * kernel, "bias": -RATE * own["bias"] * g[layer]["bias"]}
            return updates

        return descend(meta, task, step)

    assert_gradient(
        named.maml_with_curvature(NETWORK, jmeta.cross_entropy, modes=modes, **options()), reference
    )


@pytest.mark.parametrize("implicit", [True, False])
def test_shrinkage(implicit):
    def reference(meta, task):
        def step(k, g, params, start):
            updates = {}
            for layer in ("dense", "norm", "head"):
                r = RATE / np.exp(meta["rule"]["log_variance"][layer])
                updates[layer] = {}
                for name, own in g[layer].items():
                    w, w_start = params[layer][name], start[layer][name]
                    new = (w - RATE * own + r * w_start) / (1 + r)
                    updates[layer][name] = (new if implicit else w - RATE * own - r * (w - w_start)) - w
            return updates

        return descend(meta, task, step)

    adapter = named.shrinkage(NETWORK, jmeta.cross_entropy, implicit_step=implicit, **options())
    assert_gradient(adapter, reference)


def test_t_net():
    def reference(meta, task):
        return descend(meta, task, lambda k, g, *_: scaled(g, lambda *_: -RATE, LAYERS))

    assert_gradient(t_net.t_net(NETWORK, jmeta.cross_entropy, **options()), reference)


def test_mt_net():
    """The mask is a constant whose derivative is that of the soft one, at the same noise."""
    key_rule, _ = jax.random.split(KEY)  # of the adapter
    keys = jax.random.split(key_rule, 2)  # of the layers by name
    noise = {
        "dense": jax.random.logistic(keys[0], (4,), float),
        "head": jax.random.logistic(keys[1], (WAY,), float),
    }
    temperature = 0.7

    def reference(meta, task):
        masks = {}
        for layer, scores in meta["rule"].items():
            logits = (scores + np.asarray(noise[layer])) / temperature
            soft = 1 / (1 + np.exp(-logits))
            masks[layer] = (logits.real >= 0) + 1j * np.imag(soft)
        return descend(
            meta, task, lambda k, g, *_: scaled(g, lambda layer, name: -RATE * masks[layer], LAYERS)
        )

    adapter = t_net.mt_net(NETWORK, jmeta.cross_entropy, temperature=temperature, **options())
    assert adapter.draws_at_test
    assert_gradient(adapter, reference)


@pytest.mark.parametrize("epoch", [0, 3, 9])
def test_maml_pp(epoch):
    """Rates and normalization of each step, and the annealed sum of the losses after each."""
    epochs, updates = 9, 10 * epoch + 3
    early = max(1 / STEPS - epoch / (STEPS * epochs), 0.03 / STEPS) if epoch < epochs else 0
    weights = [early, 1 - early]

    def reference(meta, task):
        params, total = meta["params"], 0
        for k in range(STEPS):
            of_step = params | {"norm": {name: rows[k] for name, rows in params["norm"].items()}}
            g = gradient(of_step, task.support)
            params = move(params, scaled(g, lambda layer, name, k=k: -meta["rule"][layer][name][k], LAYERS))
            of_step = {**of_step, **{layer: params[layer] for layer in LAYERS}}
            total += weights[k] * loss(of_step, task.query)
        return total

    adapter = pp.maml_pp(
        NETWORK, jmeta.cross_entropy, inner_steps=STEPS, multi_step_epochs=epochs, epoch_updates=10
    )
    objective = functools.partial(pp.multi_step, loss=jmeta.cross_entropy)
    assert_gradient(
        adapter, reference, objective=objective, state={"updates": jnp.asarray(updates, jnp.int32)}
    )
