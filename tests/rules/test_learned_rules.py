"""TURTLE and the meta-learner LSTM, against closed forms, plain gradient descent and counted parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta.rules.clip_gradients import clip_gradients
from jmeta.rules.coordinates import log_and_sign
from jmeta.rules.meta_lstm import meta_lstm
from jmeta.rules.turtle import turtle

RATE = 0.01


def _sine_problem(seed):
    """The sine network in float64, and the loss of one task on it."""
    sample = jmeta.sinusoids(shot=5, query=10)
    task = jax.tree.map(lambda a: a.astype(jnp.float64), sample(jax.random.key(seed)))
    model = jmeta.mlp(outputs=1)
    params = jax.tree.map(
        lambda a: a.astype(jnp.float64), model.init(jax.random.key(seed + 100), task.support.x)[0]
    )

    def loss(params, batch):
        return jmeta.mean_squared_error(model.apply(params, {}, batch.x, train=True)[0], batch)

    return params, lambda p, _: loss(p, task.support), lambda p: loss(p, task.query)


def _as_descent(rule, params):
    """The weights of Theorem 1, with which the LSTM is gradient descent."""
    hyper = jax.tree.map(jnp.zeros_like, rule.init(jax.random.key(0), params))
    hyper["cell"] = rule.init(jax.random.key(1), params)["cell"]
    hyper["forget"]["bias"] += 40.0
    hyper["input"]["bias"] += -jnp.log((1 - RATE) / RATE)
    return hyper


def _meta_gradient(rule, hyper, params, support, query, order, steps=5):
    def outer(params):
        return query(jmeta.inner_loop(support, rule, hyper, params, steps, order=order)[0])

    return jax.value_and_grad(outer)(params)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, (0.0, 1.0)), (-0.1, (-0.2303, -1)), (1e-3, (-0.6908, 1)), (4e-5, (-1, 0.8811)),
     (-1e-6, (-1, -0.0220)), (0.0, (-1, 0))],
)  # fmt: skip
def test_logarithm_and_sign(value, expected):
    np.testing.assert_allclose(log_and_sign(jnp.asarray(value)), expected, atol=5e-5)
    assert np.isfinite(jax.jacobian(log_and_sign)(jnp.asarray(value))).all()


@pytest.mark.parametrize("order", ["exact", "mixed", "first"])
@pytest.mark.parametrize("inputs", ["loss_and_gradient", "raw_gradient"])
def test_theorem_1_the_lstm_can_be_gradient_descent(order, inputs):
    """On eight random problems: values and outer gradients of both orders."""
    rule = meta_lstm(inputs=inputs)

    def both(seed):
        params, support, query = _sine_problem(seed)
        mine = _meta_gradient(rule, _as_descent(rule, params), params, support, query, order)
        return mine, _meta_gradient(jmeta.sgd(RATE), (), params, support, query, order)

    (value, gradient), (expected, reference) = jax.jit(jax.vmap(both))(jnp.arange(8))
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    for mine, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-10)


def test_theorem_1_holds_step_for_step():
    params, support, _ = _sine_problem(7)
    rule = meta_lstm()
    steps = {}
    for name, kind, hyper in (("lstm", rule, _as_descent(rule, params)), ("sgd", jmeta.sgd(RATE), ())):
        collect = lambda params, step, **_: params  # noqa: E731
        steps[name] = jmeta.inner_loop(support, kind, hyper, params, 6, collect=collect)[1].collected
    for mine, theirs in zip(*(jax.tree.leaves(steps[name]) for name in ("lstm", "sgd")), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-13)


def _linear(weight):
    return {"network": [{"kernel": jnp.full((1, 1), weight), "bias": jnp.zeros(1)}]}


@pytest.mark.parametrize("order", ["exact", "mixed", "first"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_linear_turtle_is_maml(order, clip):
    params, support, query = _sine_problem(11)
    ours, theirs = turtle((), learn_rates=False), jmeta.sgd(RATE)
    if clip:
        ours, theirs = clip_gradients(ours, clip), clip_gradients(theirs, clip)
    value, gradient = _meta_gradient(ours, _linear(-RATE), params, support, query, order)
    expected, reference = _meta_gradient(theirs, (), params, support, query, order)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_five_hidden_layers_can_be_gradient_descent():
    params, support, _ = _sine_problem(3)
    rule = turtle(learn_rates=False)
    layers = jax.tree.map(jnp.zeros_like, rule.init(jax.random.key(0), params))["network"]
    layers[0]["kernel"] = layers[0]["kernel"].at[0, :2].set(jnp.array([1.0, -1.0]))
    for layer in layers[1:-1]:
        layer["kernel"] = layer["kernel"].at[:2, :2].set(jnp.eye(2))
    layers[-1]["kernel"] = layers[-1]["kernel"].at[:2, 0].set(jnp.array([-RATE, RATE]))
    mine, _ = jmeta.inner_loop(support, rule, {"network": layers}, params, 5)
    theirs, _ = jmeta.inner_loop(support, jmeta.sgd(RATE), (), params, 5)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("order", "slope", "at_start"), [("first", 751.73, -32.6272), ("exact", 720.41, -27.6157)]
)
def test_a_scalar_by_hand(order, slope, at_start):
    """y = w x, support (2, 5), query (4, 9), two steps of a linear m = -0.01: the authors' notebook."""
    rule = turtle((), learn_rates=False)

    def outer(weight, start):
        fast, _ = jmeta.inner_loop(
            lambda w, _: (5 - 2 * w) ** 2, rule, _linear(weight), start, 2, order=order
        )
        return (9 - 4 * fast) ** 2

    value, slopes = jax.value_and_grad(outer, argnums=(0, 1))(jnp.asarray(-0.01), jnp.asarray(1.0))
    np.testing.assert_allclose(value, 16.6333, rtol=1e-5)
    np.testing.assert_allclose(slopes, (slope, at_start), rtol=1e-5)


def _rules():
    return [
        turtle(inputs=("loss", "gradient", "gradient_history", "update_history", "step")),
        turtle(inputs=("gradient", "update_history"), preprocess=True),
        meta_lstm(),
        meta_lstm(inputs="gradient"),
        meta_lstm(inputs="raw_gradient", gradient_divisor=5),
    ]


@pytest.mark.parametrize("index", range(5))
def test_permuted_coordinates_take_permuted_updates(index):
    rule = _rules()[index]
    order = jax.random.permutation(jax.random.key(1), 12)
    weights = jax.random.normal(jax.random.key(2), (12,))
    hyper = rule.init(jax.random.key(3), weights)
    permuted = {**hyper, "rates": hyper["rates"][order]} if "rates" in hyper else hyper

    def fall(hyper, weights, scale):
        loss = lambda w, _: jnp.sum(scale * w**4)  # noqa: E731
        return jmeta.inner_loop(loss, rule, hyper, weights, 4)[0]

    scale = jnp.linspace(0.1, 2.0, 12)
    weights_after = fall(hyper, weights, scale)
    assert not np.allclose(weights_after, weights)
    np.testing.assert_allclose(fall(permuted, weights[order], scale[order]), weights_after[order], rtol=1e-9)


@pytest.mark.parametrize("index", range(5))
def test_a_rule_through_optax_is_the_inner_loop(index):
    rule = _rules()[index]
    params, support, _ = _sine_problem(0)
    hyper = rule.init(jax.random.key(0), params)
    expected, _ = jmeta.inner_loop(support, rule, hyper, params, 3)
    tx = jmeta.as_optax(rule, hyper)
    fast, state = params, tx.init(params)
    for step in range(3):
        value, grads = jax.value_and_grad(support)(fast, step)
        updates, state = tx.update(grads, state, fast, value=value)
        fast = optax.apply_updates(fast, updates)
    assert not np.allclose(ravel_pytree(fast)[0], ravel_pytree(params)[0])
    np.testing.assert_allclose(ravel_pytree(fast)[0], ravel_pytree(expected)[0], rtol=1e-9, atol=1e-12)


def test_a_learned_rule_trains_another_network():
    """Learned from fresh weights of one network, 16 sine waves an update, tried on one of another shape and
    depth: the median over waves of log(loss after / loss before) five steps."""
    rule = clip_gradients(turtle((20,), learn_rates=False), 10.0)
    sample = jmeta.sinusoids(shot=10, query=1)

    def changes(hyper, widths, keys):
        model = jmeta.mlp(widths=widths, outputs=1)

        def change(key):
            support = sample(key).support
            params, _ = model.init(jax.random.fold_in(key, 1), support.x)

            def loss(params, step):
                return jmeta.mean_squared_error(model.apply(params, {}, support.x, train=True)[0], support)

            adapted, _ = jmeta.inner_loop(loss, rule, hyper, params, 5, order="first")
            return jnp.log(loss(adapted, 0) / loss(params, 0))

        return jax.vmap(change)(keys)

    updates = 400
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.01, updates)))

    def learn(carry, key):
        hyper, state = carry
        slopes = jax.grad(lambda h: changes(h, (16,), jax.random.split(key, 16)).mean())(hyper)
        moves, state = tx.update(slopes, state)
        return (optax.apply_updates(hyper, moves), state), None

    untrained = rule.init(jax.random.key(3), jnp.zeros(1, jnp.float32))
    keys = jax.random.split(jax.random.key(1), updates)
    (trained, _), _ = jax.jit(lambda h: jax.lax.scan(learn, (h, tx.init(h)), keys))(untrained)
    tried = jax.random.split(jax.random.key(2), 100)
    median = jax.jit(lambda hyper: jnp.median(changes(hyper, (24, 24, 24), tried)))
    assert median(trained) < -0.3 and median(untrained) > median(trained) + 0.3, (
        median(trained),
        median(untrained),
    )


def _without_loss(rule, params):
    tx = jmeta.as_optax(rule, rule.init(jax.random.key(0), params))
    return lambda: tx.update(params, tx.init(params), params)


def _without_parameters(rule, params):
    tx = jmeta.as_optax(rule, rule.init(jax.random.key(0), params))
    return lambda: tx.update(params, tx.init(params), value=jnp.ones(()))


def _elsewhere(other):
    def misuse(rule, params):
        tx = jmeta.as_optax(rule, rule.init(jax.random.key(0), params))
        return lambda: tx.init(other)

    return misuse


@pytest.mark.parametrize(
    ("rule", "misuse", "message"),
    [
        (meta_lstm(), _without_loss, r"meta_lstm: no loss; .* tx.update\(grads, state, params, value=loss\)"),
        (turtle(inputs=("loss",)), _without_loss, r"turtle: no loss; .* value=loss"),
        (
            meta_lstm(inputs="raw_gradient"),
            _without_parameters,
            r"meta_lstm: no parameters; .* tx.update\(grads, state, par",
        ),
        (
            turtle(),
            _elsewhere({"w": jnp.ones((3, 2))}),
            r"rates\['w'\]: float64\[2, 3\], .* here: float64\[3, 2\]",
        ),
        (turtle(), _elsewhere({"v": jnp.ones((2, 3))}), r"rates's structure: .*learn_rates=False"),
    ],
)
def test_misuse_as_an_optax_transformation(rule, misuse, message):
    call = misuse(rule, {"w": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=message):
        call()


def test_first_order_stops_at_the_gradient_alone():
    """d theta_T / d theta is the identity, while network and rates hear from every step."""
    params, support, query = _sine_problem(5)
    rule = turtle(inputs=("gradient", "gradient_history"))
    hyper = rule.init(jax.random.key(0), params)

    def outer(params, hyper):
        return query(jmeta.inner_loop(support, rule, hyper, params, 5, order="first")[0])

    by_params, by_hyper = jax.grad(outer, argnums=(0, 1))(params, hyper)
    adapted, _ = jmeta.inner_loop(support, rule, hyper, params, 5)
    for a, b in zip(jax.tree.leaves(by_params), jax.tree.leaves(jax.grad(query)(adapted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(by_hyper))


def test_histories_by_hand():
    """Moving averages start at their first value; a rule that returns its history shows it."""
    grads = jnp.array([[2.0], [4.0], [-1.0]])
    pick = {"network": [{"kernel": jnp.array([[0.0], [1.0]]), "bias": jnp.ones(1)}]}
    for name, expected in (
        ("gradient_history", [1 + 2.0, 1 + 0.9 * 2 + 0.1 * 4, 1 + 0.9 * 2.2 - 0.1]),
        ("update_history", [1.0, 2.0, 1 + 0.9 * 1 + 0.1 * 2]),
    ):
        rule = turtle((), inputs=("gradient", name), learn_rates=False)
        carry, updates = rule.start(pick, grads[0], None), []
        for step, gradient in enumerate(grads):
            moves, carry = rule.update(
                pick, gradient, carry, grads[0], loss=jnp.zeros(()), step=jnp.asarray(step)
            )
            updates.append(float(moves[0]))
        np.testing.assert_allclose(updates, expected, rtol=1e-12)


def test_parameters_are_counted_as_in_the_paper():
    params, _, _ = _sine_problem(0)
    size = lambda tree: ravel_pytree(tree)[0].size  # noqa: E731
    assert size(params) == 1761
    key = jax.random.key(0)
    assert size(turtle().init(key, params)["network"]) == 1741
    both = turtle(inputs=("gradient", "gradient_history")).init(key, params)
    assert size(both["network"]) == 1761 and size(both["rates"]) == 1761
    rates = ravel_pytree(both["rates"])[0]
    assert rates.min() >= 0 and rates.max() < 1
    for inputs, count in (("loss_and_gradient", 2080), ("raw_gradient", 1840)):
        hyper = meta_lstm(inputs=inputs).init(key, params)
        assert size(hyper["cell"]) == count and size((hyper["forget"], hyper["input"])) == 46


@pytest.mark.parametrize(
    "make",
    [lambda: turtle(inputs=()), lambda: turtle(inputs=("gradient", "gradient")), lambda: turtle((0,)),
     lambda: turtle(inputs=("hessian",)), lambda: turtle(decay=1.0), lambda: meta_lstm(0),
     lambda: meta_lstm(inputs="loss"), lambda: meta_lstm(gradient_divisor=0.0),
     lambda: clip_gradients(jmeta.sgd(0.1), 0.0)],
)  # fmt: skip
def test_settings_that_mean_nothing(make):
    with pytest.raises(ValueError, match="expected"):
        make()
