"""MAML's relatives where they are MAML, ANIL or each other; padding, and what MAML++ counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from network_in_numpy import HIDDEN, NETWORK, WAY, draw_task, randomize

import jmeta
from jmeta.adapters import maml_pp as pp
from jmeta.adapters import named, t_net
from jmeta.models.norm_policy import is_no_norm
from jmeta.models.transformed import transformed
from jmeta.types import Batch

TASK, KEY, STEPS, RATE = draw_task(), jax.random.key(3), 2, 0.3
OPTIONS = {"inner_lr": RATE, "inner_steps": STEPS, "order": "exact"}


@functools.cache
def start():
    params, state = jax.jit(NETWORK.init)(jax.random.key(0), TASK.support.x)
    return randomize(params), state


@functools.partial(jax.jit, static_argnums=(0, 4))
def outer_gradient(adapter, meta, state, task=TASK, objective=jmeta.cross_entropy):
    def value(meta):
        fast, after, _ = adapter.adapt(meta, state, task.support, KEY, train=True)
        outputs, after = adapter.predict(
            meta, fast, after, task.query.x, None, train=True, mask=task.query.mask
        )
        return objective(outputs, task.query), after

    return jax.value_and_grad(value, has_aux=True)(meta)


@functools.cache
def of_maml(order="exact", adapted=is_no_norm):
    params, state = start()
    adapter = jmeta.gradient_adapter(
        NETWORK, jmeta.cross_entropy, jmeta.sgd(RATE), STEPS, order=order, adapted=adapted
    )
    (value, _), grads = outer_gradient(adapter, {"params": params, "rule": ()}, state)
    return value, grads["params"]


def assert_close(got, expected, tolerance=1e-11):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, expected)


def with_identities(params):
    sizes = {"dense": HIDDEN, "head": WAY}
    return {
        name: own | ({"transform": jnp.eye(sizes[name])} if name in sizes else {})
        for name, own in params.items()
    }


@pytest.mark.parametrize("adapter", ["t_net", "mt_net", "meta_curvature", "shrinkage", "meta_sgd"])
def test_it_is_maml_before_it_has_learned(adapter):
    """Identities, open masks, the widest prior, equal rates."""
    params, state = start()
    meta = {"params": params, "rule": ()}
    chosen = is_no_norm
    if adapter == "t_net":
        built, meta["params"] = t_net.t_net(NETWORK, jmeta.cross_entropy, **OPTIONS), with_identities(params)
    elif adapter == "mt_net":
        built, meta["params"] = t_net.mt_net(NETWORK, jmeta.cross_entropy, **OPTIONS), with_identities(params)
        meta["rule"] = {"dense": jnp.full(HIDDEN, 99.0), "head": jnp.full(WAY, 99.0)}
    elif adapter == "meta_curvature":
        built = named.maml_with_curvature(NETWORK, jmeta.cross_entropy, **OPTIONS)
        meta["rule"] = built.init(KEY, TASK.support.x)[0]["rule"]
    elif adapter == "shrinkage":
        chosen, built = None, named.shrinkage(NETWORK, jmeta.cross_entropy, **OPTIONS)
        meta["rule"] = {"log_variance": dict.fromkeys(("dense", "norm", "head"), jnp.asarray(60.0))}
    else:
        chosen, rates = None, {"lowest_rate": RATE, "highest_rate": RATE}
        built = named.meta_sgd(NETWORK, jmeta.cross_entropy, **rates, inner_steps=STEPS, order="exact")
        meta["rule"] = built.init(KEY, TASK.support.x)[0]["rule"]
    value, expected = of_maml(adapted=chosen)
    (got, _), grads = outer_gradient(built, meta, state)
    assert_close(got, value)
    own = jax.tree.map(lambda leaf: leaf, grads["params"])
    for layer in own.values():
        layer.pop("transform", None)
    assert_close(own, expected)


def test_shrinkage_of_the_body_is_anil():
    params, state = start()
    adapter = named.shrinkage(NETWORK, jmeta.cross_entropy, **OPTIONS)
    narrow, wide = 2 * np.log(1e-6), 2 * np.log(1e6)
    logs = {"dense": jnp.asarray(narrow), "norm": jnp.asarray(narrow), "head": jnp.asarray(wide)}
    (value, _), grads = outer_gradient(adapter, {"params": params, "rule": {"log_variance": logs}}, state)
    assert_close((value, grads["params"]), of_maml(adapted=("head",)), 1e-5)
    deviations = adapter.learned({"params": params, "rule": {"log_variance": logs}})
    assert_close(deviations["deviation/head"], 1e6, 1e-9)


def start_of_maml_pp(adapter, updates=0):
    """MAML's parameters, with a normalization layer for each step."""
    params, _ = start()
    _, state = adapter.init(KEY, TASK.support.x)
    rates = jax.tree.map(
        lambda leaf: jnp.full(STEPS, RATE), {name: params[name] for name in ("dense", "head")}
    )
    norm = jax.tree.map(lambda leaf: np.stack([leaf] * STEPS), params["norm"])
    meta = {"params": params | {"norm": norm}, "rule": rates | {"norm": {"scale": None, "bias": None}}}
    return meta, state | {"updates": jnp.asarray(updates, jnp.int32)}


@pytest.mark.parametrize(
    ("first_order", "updates", "order"), [(0, 0, "exact"), (2, 9, "first"), (2, 10, "exact")]
)
def test_maml_pp_with_equal_steps_and_the_last_loss_is_maml(first_order, updates, order):
    """In first order for the first epochs, here of 5 updates."""
    adapter = pp.maml_pp(NETWORK, jmeta.cross_entropy, inner_steps=STEPS, multi_step_epochs=0,
                         first_order_epochs=first_order, epoch_updates=5)  # fmt: skip
    meta, state = start_of_maml_pp(adapter, updates)
    (value, after), grads = outer_gradient(adapter, meta, state)
    expected_value, expected = of_maml(order)
    assert_close(value, expected_value)
    params = grads["params"] | {"norm": jax.tree.map(lambda leaf: leaf.sum(0), grads["params"]["norm"])}
    assert_close(params, expected)
    assert after["updates"] == updates + 1


def test_maml_pp_keeps_statistics_of_each_step_and_tests_with_them():
    """A batch of one query is normalized as the others are; with the batch's statistics it is not."""
    adapter = pp.maml_pp(
        NETWORK, jmeta.cross_entropy, inner_steps=STEPS, norm="per_step", multi_step_epochs=1
    )
    meta, state = start_of_maml_pp(adapter)
    objective = functools.partial(pp.multi_step, loss=jmeta.cross_entropy)
    _, after = outer_gradient(adapter, meta, state, TASK, objective)[0]
    mean = after["model"]["batch_stats"]["norm"]["mean"]
    assert mean.shape == (STEPS, HIDDEN) and (mean[0] != mean[1]).all()
    # of the first step: once the support set's statistics and once the query's, after the step
    fast, _, _ = adapter.adapt(meta, after, TASK.support, None, train=False)
    both = [
        adapter.predict(meta, fast, after, x, None, train=False)[0] for x in (TASK.query.x, TASK.query.x[:1])
    ]
    assert_close(both[0][:1], both[1])


def test_maml_pp_learns_in_the_outer_loop():
    """Two outer steps on two tasks: the count goes on, metrics are those of the last inner step."""
    adapter = pp.maml_pp(
        NETWORK, jmeta.cross_entropy, inner_steps=STEPS, epoch_updates=1, multi_step_epochs=1
    )
    learner = jmeta.learner(
        adapter,
        functools.partial(pp.multi_step, loss=jmeta.cross_entropy),
        optax.sgd(0.1),
        metrics=functools.partial(pp.of_last_step, metrics=jmeta.accuracy),
        test_loss=jmeta.cross_entropy,
    )
    tasks = jax.tree.map(lambda *leaves: jnp.stack(leaves), TASK, draw_task(5))
    state, step = learner.init(KEY, jax.tree.map(lambda leaf: leaf[0], tasks)), jax.jit(learner.step)
    for count in (1, 2):
        state, metrics = step(state, tasks)
        assert state.model_state["updates"] == count and metrics["accuracy"].shape == (2,)
    tested = jax.jit(learner.evaluate)(state, tasks)
    assert np.isfinite(tested["loss"]).all() and set(np.unique(tested["accuracy"] * 9 % 1)) <= {0.0}


@pytest.mark.parametrize("name", ["t_net", "mt_net"])
def test_an_absent_way_leaves_no_trace(name):
    """A task of two of three ways is that of the network without the third, whose transformation mixed in."""
    make = getattr(t_net, name)
    options = OPTIONS | ({"deterministic_test": True} if name == "mt_net" else {})
    whole = make(jmeta.mlp(widths=(), outputs=3), jmeta.cross_entropy, **options)
    small = make(jmeta.mlp(widths=(), outputs=2), jmeta.cross_entropy, **options)
    x, y = jax.random.normal(KEY, (4, 5)), jnp.array([0, 1, 0, 1], jnp.int32)
    meta, _ = whole.init(KEY, x)
    meta = jax.tree.map(jnp.asarray, randomize(meta))
    head = meta["params"]["head"]
    parts = {
        "kernel": head["kernel"][:, :2],
        "bias": head["bias"][:2],
        "transform": head["transform"][:2, :2],
    }
    rule = {"head": meta["rule"]["head"][:2]} if name == "mt_net" else ()
    fewer = {"params": {"head": parts}, "rule": rule}
    outputs = []
    for adapter, own, mask in ((whole, meta, jnp.ones(4)), (small, fewer, None)):
        fast, _, _ = adapter.adapt(own, {}, Batch(x, y, mask), None, train=False)
        outputs.append(adapter.predict(own, fast, {}, x, None, train=False)[0])
    assert_close(outputs[0][:, :2], outputs[1])
    assert (outputs[0][:, 2] < -1e8).all()


def test_another_norm_of_a_t_net_still_draws_at_test():
    adapter = t_net.mt_net(NETWORK, jmeta.cross_entropy, **OPTIONS)
    assert adapter.draws_at_test and adapter.with_norm("support").draws_at_test
    assert not t_net.t_net(NETWORK, jmeta.cross_entropy).with_norm("support").draws_at_test


def test_what_they_tell_of_what_they_learned():
    """Odds of each layer, rates of each step, negative rates."""
    adapter = t_net.mt_net(NETWORK, jmeta.cross_entropy)
    told = adapter.learned({"rule": {"dense": jnp.array([0.0, 2.0]), "head": jnp.zeros(3)}})
    assert_close(told, {"adapted_share/dense": (0.5 + 1 / (1 + np.exp(-2))) / 2, "adapted_share/head": 0.5})
    adapter = pp.maml_pp(NETWORK, jmeta.cross_entropy, inner_steps=2)
    rates = {"dense": {"kernel": jnp.array([0.1, 0.2]), "bias": jnp.array([0.3, 0.6])}}
    assert_close(adapter.learned({"rule": rates}), {"mean_rate/step_0": 0.2, "mean_rate/step_1": 0.4})
    adapter = named.meta_sgd(NETWORK, jmeta.cross_entropy)
    told = adapter.learned({"rule": {"w": jnp.array([0.1, -0.1, 0.2]), "b": jnp.array([0.2])}})
    assert_close(told, {"mean_rate": 0.1, "negative_rates": 0.25}, 1e-6)


def test_transformed_networks():
    """A transformation after each layer, of a convolution on its channels, equal to applying it."""
    model = transformed(jmeta.conv4(filters=2, head=3))
    x = jax.random.normal(KEY, (2, 16, 16, 1), jnp.float32)
    params, state = jax.eval_shape(model.init, KEY, x)
    assert {name: own["transform"].shape for name, own in params.items() if "kernel" in own} == {
        **{f"conv_{layer}": (2, 2) for layer in range(4)}, "head": (3, 3)
    }  # fmt: skip
    linear, x = transformed(jmeta.mlp(widths=(), outputs=3)), np.asarray(x[:, :4, 0, 0])
    own, _ = linear.init(KEY, x)
    own = randomize(own)
    expected = (x @ own["head"]["kernel"] + own["head"]["bias"]) @ own["head"]["transform"]
    assert_close(linear.apply(own, {}, x, train=True)[0], expected, 1e-6)
    with pytest.raises(ValueError, match="no layer with a kernel"):
        transformed(jmeta.from_pair(lambda key, x: {"w": x[0]}, lambda params, x: x)).init(KEY, x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "support"}, "norm='support'; expected 'batch' or 'per_step'"),
        ({"inner_steps": 0}, "inner_steps=0"),
        ({"epoch_updates": 0}, "epoch_updates=0"),
        ({"multi_step_epochs": -1}, "multi_step_epochs=-1"),
        ({"order": "second"}, "order='second'"),
    ],
)
def test_settings_that_mean_nothing(options, words):
    with pytest.raises(ValueError, match=f"maml_pp: {words}"):
        pp.maml_pp(NETWORK, jmeta.cross_entropy, **options)
