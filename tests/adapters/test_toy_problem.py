"""Numbers worked out by hand, on a quadratic of two weights and on networks of one or two.

The support loss is sum d (w - a)^2 / 2 with d = (1, 4), a = (1, 0), from (0, 1); the query loss |w - b|^2 / 2
with b = (1, 1); the rate 0.1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta.adapters import maml_pp as pp
from jmeta.adapters import named, t_net
from jmeta.adapters.by_minibatches import by_minibatches
from jmeta.adapters.leap import along_path
from jmeta.rules.proximal_sgd import proximal_sgd
from jmeta.types import Batch

D, A, B = (np.array(values, float) for values in ((1, 4), (1, 0), (1, 1)))
START = np.array([0.0, 1.0])


def support_loss(w, step=None):
    return (D * (w - A) ** 2).sum() / 2


def query_loss(w):
    return ((w - B) ** 2).sum() / 2


def close(got, expected, tolerance=1e-12):
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def gradients(rule, hyper, steps, order="exact", weights=None):
    """The derivatives of the query loss after the steps, or of its weighted sum, in start and hyper."""

    def value(start, hyper):
        collect = lambda w, step, **of_step: w  # noqa: E731
        _, trace = jmeta.inner_loop(support_loss, rule, hyper, start, steps, order=order, collect=collect)
        losses = jax.vmap(query_loss)(trace.collected)
        return losses[-1] if weights is None else (losses * jnp.asarray(weights)).sum()

    return jax.grad(value, (0, 1))(jnp.asarray(START), hyper)


def test_meta_sgd():
    rule = jmeta.sgd((0.005, 0.1), learn="element")
    start, rates = gradients(rule, jnp.full(2, 0.1), 1)
    close(rates, (-0.9, 1.6))
    close(start, (-0.81, -0.24))
    fast, _ = jmeta.inner_loop(support_loss, rule, jnp.array([-0.1, 0.0]), jnp.asarray(START), 1)
    close(fast, (-0.1, 1))
    rates = rule.init(jax.random.key(0), {"w": jnp.zeros(10_000), "b": jnp.zeros(5)})
    assert (
        rates["w"].min() >= 0.005 and rates["w"].max() < 0.1 and not np.isin(rates["b"], rates["w"][:5]).any()
    )
    assert abs(rates["w"].mean() - 0.0525) < 3 * 0.095 / 12**0.5 / 100
    same = jmeta.sgd((0.1, 0.1), learn="element")
    close(gradients(same, same.init(jax.random.key(0), jnp.asarray(START)), 2)[0], (-0.6561, -0.2304))


@pytest.mark.parametrize(("rate", "learn"), [((0.1, 0.2), None), ((0.2, 0.1), "element"), ((0.1,), "leaf")])
def test_a_range_of_rates_that_means_nothing(rate, learn):
    with pytest.raises(
        ValueError, match=r"sgd: rate=.*expected one number or, of learned rates, \(low, high\)"
    ):
        jmeta.sgd(rate, learn=learn)


def test_maml_pp_rates_and_steps():
    rule, rates = jmeta.sgd(0.1, learn="step_leaf", steps=2), jnp.full(2, 0.1)
    close(gradients(rule, rates, 2)[1], (0.807, 0.807))
    close(gradients(rule, rates, 2, "first")[1], (1.75, 0.807))
    close(gradients(rule, rates, 2, weights=(0.5, 0.5))[0], (-0.73305, -0.2352))


@pytest.mark.parametrize(
    ("epoch", "early", "last"),
    [
        (0, 0.2, 0.2),
        (1, 0.186667, 0.253333),
        (7, 0.106667, 0.573333),
        (14, 0.013333, 0.946667),
        (15, 0, 1),
        (99, 0, 1),
    ],
)
def test_maml_pp_weights(epoch, early, last):
    weights = pp.step_weights(epoch, 5, 15)
    close(weights, [early] * 4 + [last], 2e-6)
    close(weights.sum(), 1)


def test_maml_pp_floor():
    """The weights before the last do not fall below 0.03 / K."""
    close(pp.step_weights(999, 5, 1000), [0.006] * 4 + [0.976])


def test_shrinkage():
    explicit = proximal_sgd(0.1, implicit_step=False)
    logs = lambda value: {"log_variance": {"": jnp.asarray(value)}}  # noqa: E731
    start, hyper = gradients(explicit, logs(0.3), 1)
    close(start, gradients(jmeta.sgd(0.1), (), 1)[0])
    close(hyper["log_variance"][""], 0)
    # In lambda = 1 / sigma^2, at lambda = 0: the sum of 0.0081 and -0.0256.
    of_log = gradients(explicit, logs(20.0), 2)[1]["log_variance"][""]
    close(-of_log * np.exp(20.0), 0.0081 - 0.0256, 1e-6)
    for rule in (explicit, proximal_sgd(0.1)):
        close(gradients(rule, logs(28.0), 2)[0], (-0.6561, -0.2304), 1e-9)  # MAML
    assert np.isfinite(gradients(proximal_sgd(0.1), logs(-500.0), 2)[0]).all()
    fast, _ = jmeta.inner_loop(support_loss, proximal_sgd(0.1), logs(-500.0), jnp.asarray(START), 5)
    close(fast, START)


def one_weight_network():
    """h w x with body w = 1 and head h = 0.4."""
    init = lambda key, x: {"body": jnp.array(1.0), "head": jnp.array(0.4)}  # noqa: E731
    return jmeta.from_pair(init, lambda params, x: params["head"] * params["body"] * x)


def half_squared(outputs, batch):
    return ((outputs - batch.y) ** 2).sum() / 2


@pytest.mark.parametrize(
    ("order", "head", "body"), [("exact", -0.6334848, -0.21026304), ("first", -0.6155136, -0.22464)]
)
def test_boil(order, head, body):
    adapter = named.boil(one_weight_network(), half_squared, inner_lr=0.4, order=order)
    one = Batch(jnp.ones(1), jnp.ones(1))
    meta, state = adapter.init(jax.random.key(0), one.x)

    def value(meta):
        fast, _, _ = adapter.adapt(meta, state, one, None, train=True)
        assert fast.params["head"] is None
        outputs, _ = adapter.predict(meta, fast, state, one.x, None, train=True)
        return half_squared(outputs, one), fast.params["body"]

    (loss, moved), grads = jax.value_and_grad(value, has_aux=True)(meta)
    close((loss, moved), (0.15769728, 1.096))
    close((grads["params"]["head"], grads["params"]["body"]), (head, body))


@pytest.mark.parametrize(("scores", "expected"), [(None, (0.8, 0.2)), ((9.0, -9.0), (0.8, 0.0))])
def test_t_net_moves_in_its_metric_and_subspace(scores, expected):
    """x = 1, T = diag(2, 1), W = b = 0, targets (1, 1), rate 0.1."""
    make = {
        "model": jmeta.mlp(widths=(), outputs=2),
        "loss": half_squared,
        "inner_lr": 0.1,
        "test_inner_steps": 1,
    }
    adapter = t_net.t_net(**make) if scores is None else t_net.mt_net(**make, deterministic_test=True)
    one = Batch(jnp.ones((1, 1)), jnp.ones((1, 2)))
    meta, state = adapter.init(jax.random.key(0), one.x)
    layer = {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2), "transform": jnp.diag(jnp.array([2.0, 1.0]))}
    meta = {"params": {"head": layer}, "rule": () if scores is None else {"head": jnp.array(scores)}}
    fast, _, _ = adapter.adapt(meta, state, one, None, train=False)
    # T T' = diag(4, 1) times the rate, once for W and once for b
    close(adapter.predict(meta, fast, state, one.x, None, train=False)[0][0], expected)
    assert fast.params["head"]["transform"] is None


def toy_adapter(rule, steps, **options):
    model = jmeta.from_pair(lambda key, x: jnp.asarray(START), lambda w, x: w)
    loss = lambda w, batch: support_loss(w)  # noqa: E731
    return by_minibatches(model, loss, rule, steps, batch=1, **options)


def outer_step(adapter, task_grad, tx):
    task = jmeta.Task(Batch(jnp.zeros((2, 1)), jnp.zeros(2)), Batch(jnp.zeros((2, 1)), jnp.zeros(2)))
    learner = jmeta.learner(adapter, lambda w, batch: query_loss(w), tx, task_grad=task_grad)
    state = learner.init(jax.random.key(0), task.support.x)
    tasks = jax.tree.map(lambda leaf: leaf[None], task)
    return jax.jit(learner.step)(state, tasks)[0].meta["params"]


@pytest.mark.parametrize(("steps", "gradient"), [(1, 0.1 * D * (START - A)), (2, (-0.19, 0.64))])
def test_reptile(steps, gradient):
    """The initialization minus the trained weights; after a whole outer step it is the trained weights."""
    from jmeta.adapters.reptile import reptile_gradient

    adapter = toy_adapter(jmeta.sgd(0.1), steps)
    close(START - outer_step(adapter, reptile_gradient(), optax.sgd(1.0)), gradient)


@pytest.mark.parametrize(
    ("options", "rate", "expected"),
    [
        ({}, 0.5, 0.875 / 0.625 + 0.296875 / 0.267000),
        ({"last": False}, 0.5, 1.4),
        ({"metric": "energy"}, 0.5, 1.171875),
        ({"metric": "energy", "with_loss": False}, 0.5, 0.75),
        ({"metric": "energy", "steps": 1}, 2.5, 3.125),
        ({"metric": "energy", "steps": 1, "stabilizer": False}, 2.5, 1.875),
    ],
)
def test_leap_along_a_parabola(options, rate, expected):
    """f = w^2 / 2 from 1: 1, 1/2, 1/4 at rate 1/2, and up to -3/2 at rate 5/2."""
    options = dict(options)
    steps, last = options.pop("steps", 2), options.pop("last", True)
    rule = along_path(jmeta.sgd(rate), steps if last else None, **options)
    fast, trace = jmeta.inner_loop(
        lambda w, step: w**2 / 2, rule, (), jnp.array(1.0), steps + last, order="first"
    )
    close(fast, (1 - rate) ** steps)
    close(trace.carry["gradient"], expected, 1e-6)


def test_leap_at_rest():
    """A path of no length has the gradient 0."""
    rule = along_path(jmeta.sgd(0.5), 2)
    _, trace = jmeta.inner_loop(lambda w, step: 0 * w, rule, (), jnp.array(1.0), 3, order="first")
    assert trace.carry["gradient"] == 0
    with pytest.raises(ValueError, match="along_path: metric='time'; expected 'length' or 'energy'"):
        along_path(jmeta.sgd(0.5), 2, metric="time")
