"""Implicit gradients near a start: the quadratic by hand, the limits, and the unrolled loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta.adapters.shrinkage import implicit_shrinkage, sigma_reptile_gradient
from jmeta.inner.implicit import conjugate_gradients, proximal_solve
from jmeta.rules.proximal_sgd import proximal_sgd
from jmeta.types import Batch, Task

START = {"a": jnp.array(0.0), "b": jnp.array(1.0)}


def support_loss(w, step=None):
    """((a - 1)^2 + 4 b^2) / 2."""
    return ((w["a"] - 1) ** 2 + 4 * w["b"] ** 2) / 2


def query_loss(w):
    return ((w["a"] - 1) ** 2 + w["b"] ** 2) / 2


def both(a, b):
    return {"a": jnp.asarray(a), "b": jnp.asarray(b)}


def assert_close(got, expected, tolerance=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), got, expected)


def gradients(log_variance, steps=200, rate=0.2, cg_steps=2):
    def value(start, logs):
        w = proximal_solve(support_loss, start, logs, steps, rate=rate, cg_steps=cg_steps)
        return query_loss(w), w

    return jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(START, both(log_variance, log_variance))


def test_a_quadratic():
    """sigma^2 = 1/2: the minimum is (1/3, 1/3); two eigenvalues take two steps of conjugate gradients."""
    (_, w), (start, logs) = gradients(np.log(0.5))
    assert_close(w, both(1 / 3, 1 / 3))
    assert_close(start, both(-4 / 9, 1 / 9))
    assert_close(logs, both(-4 / 27, -2 / 27))


def test_a_narrow_prior_leaves_the_start():
    (_, w), (start, logs) = gradients(-18.0, steps=5)
    assert_close(w, START, 1e-6)
    assert_close(start, both(-1.0, 1.0), 1e-6)  # the query's gradient
    assert_close(logs, both(0.0, 0.0), 1e-6)


def test_it_is_the_unrolled_gradient_of_many_steps():
    """Of a loss that is no quadratic, and of what it closes over."""

    def value(solve, start, logs, slope):
        loss = lambda w, step: support_loss(w) + slope * jnp.sin(w["a"] * w["b"])  # noqa: E731
        return query_loss(solve(loss, start, logs))

    def implicit(loss, start, logs):
        return proximal_solve(loss, start, logs, 400, rate=0.2, cg_steps=2)

    def unrolled(loss, start, logs):
        return jmeta.inner_loop(loss, proximal_sgd(0.2), {"log_variance": logs}, start, 400)[0]

    arguments = START, both(0.3, -0.5), jnp.array(0.7)
    grads = [
        jax.jit(jax.grad(value, (1, 2, 3)), static_argnums=0)(solve, *arguments)
        for solve in (implicit, unrolled)
    ]
    assert_close(*grads, 1e-9)


def test_conjugate_gradients():
    """Exact after as many steps as there are numbers, and at rest after that."""
    root = np.random.default_rng(0).normal(size=(4, 4))
    matrix, b = jnp.asarray(root @ root.T + np.eye(4)), jnp.arange(4.0)
    for steps in (4, 9):
        assert_close(conjugate_gradients(lambda x: matrix @ x, b, steps), jnp.linalg.solve(matrix, b), 1e-9)
    assert_close(conjugate_gradients(lambda x: matrix @ x, 0 * b, 3), 0 * b)
    with pytest.raises(ValueError, match="proximal_solve: cg_steps=0; expected at least 1"):
        gradients(0.0, cg_steps=0)


@pytest.mark.parametrize(
    ("task_grad", "start"), [(None, (-4 / 9, 1 / 9)), (sigma_reptile_gradient(), (-2 / 3, 4 / 3))]
)
def test_an_outer_step_of_sigma_imaml_and_of_sigma_reptile(task_grad, start):
    model = jmeta.from_pair(lambda key, x: START, lambda w, x: w)
    options = {"inner_lr": 0.2, "inner_steps": 200, "cg_steps": 2, "log_variance": np.log(0.5)}
    adapter = implicit_shrinkage(model, lambda w, batch: support_loss(w), **options)
    learner = jmeta.learner(adapter, lambda w, batch: query_loss(w), optax.sgd(1.0), task_grad=task_grad)
    batch = Batch(jnp.zeros((1, 1)), jnp.zeros(1))
    state = learner.init(jax.random.key(0), batch.x)
    after, metrics = jax.jit(learner.step)(state, jax.tree.map(lambda leaf: leaf[None], Task(batch, batch)))
    moved = jax.tree.map(jnp.subtract, state.meta, after.meta)
    assert_close(moved["params"], both(*start))
    assert_close(moved["rule"]["log_variance"], both(-4 / 27, -2 / 27))
    assert_close(metrics["support_loss"], jnp.array([2.5]))
    told = adapter.learned(state.meta)
    assert_close(told, {"deviation/a": 0.5**0.5, "deviation/b": 0.5**0.5})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "running"}, "norm='running'; expected 'batch' or 'support'"),
        ({"cg_steps": 0}, "cg_steps=0"),
        ({"inner_steps": 0}, "inner_steps=0; expected at least 1"),
    ],
)
def test_settings_that_mean_nothing(options, words):
    with pytest.raises(ValueError, match=f"implicit_shrinkage: {words}"):
        implicit_shrinkage(jmeta.mlp(), jmeta.cross_entropy, **options)
