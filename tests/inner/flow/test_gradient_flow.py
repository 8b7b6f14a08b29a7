"""The flow against brute force, closed forms and gradient descent; its failures; its errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_reference import gradient_descent, loss, padded, problem, relative, runge_kutta

from jmeta.inner.flow.gradient_flow import gradient_flow, gradient_flow_with_info

SHOT, WAY, FEATURE = 25, 5, 12
SHOTS = 5, 25, 10, 15, 20, 7, 12, 25, 9, 17
WAYS = 5, 5, 2, 3, 4, 3, 4, 5, 2, 3
HORIZONS = np.geomspace(1e-2, 1e3, 10)
RIDGES = 0.0, 0.2, 0.0, 0.05, 0.0, 0.1, 0.0, 0.02, 0.0, 0.01


def ten_problems():
    """(w0, features, T, labels, ridge, mask, way_mask, outer), each with a leading axis of ten."""
    rows = []
    for seed, (shot, way, horizon, ridge) in enumerate(zip(SHOTS, WAYS, HORIZONS, RIDGES)):
        w0, features, labels, outer = problem(seed, shot, way, FEATURE, scale=2.0)
        rows.append(
            (
                padded(w0, WAY, FEATURE),
                padded(features, SHOT, FEATURE),
                jnp.asarray(horizon),
                padded(labels, SHOT, WAY),
                jnp.asarray(ridge),
                jnp.arange(SHOT) < shot,
                jnp.arange(WAY) < way,
                padded(outer, WAY, FEATURE),
            )
        )
    return [jnp.stack(column) for column in zip(*rows)]


def brute_outer(w0, features, horizon, labels, ridge, mask, way_mask, outer):
    weight, absent = mask.astype(float), 1.0 - way_mask
    w = runge_kutta(w0, features, horizon, labels, ridge, weight, absent, steps=4000, power=2)
    return (outer * w).sum()


def flow_outer(method, w0, features, horizon, labels, ridge, mask, way_mask, outer):
    w = gradient_flow(
        w0,
        features,
        labels,
        horizon,
        method=method,
        rtol=1e-10,
        atol=1e-10,
        ridge=ridge,
        mask=mask,
        way_mask=way_mask,
        max_steps=16_384,
    )
    return (outer * w).sum()


@functools.cache
def brute_force():
    return jax.jit(jax.vmap(jax.value_and_grad(brute_outer, (0, 1, 2, 3, 4))))(*ten_problems())


def check_against_brute_force(value, gradients):
    """To 1e-6 relative; the horizon's gradient, that fades toward 0, also to the solver's own tolerance."""
    expected, expected_gradients = brute_force()
    *_, mask, way_mask, _ = ten_problems()
    real = mask[:, :, None] & way_mask[:, None, :]  # no label belongs elsewhere
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradients[2], expected_gradients[2], rtol=1e-6, atol=1e-9)
    for name, got, want in zip(("w0", "features", None, "labels", "ridge"), gradients, expected_gradients):
        if name is not None:
            if name == "labels":
                got, want = got * real, want * real
            errors = [relative(a, b) for a, b in zip(got, want)]
            assert max(errors) < 1e-6, f"{name}: {errors}"


@pytest.mark.slow
def test_adjoint_against_brute_force_and_finite_differences():
    arguments = ten_problems()
    outer = jax.jit(jax.vmap(jax.value_and_grad(functools.partial(flow_outer, "adjoint"), (0, 1, 2, 3, 4))))
    value, gradients = outer(*arguments)
    check_against_brute_force(value, gradients)
    horizon, step = arguments[2], 1e-3 * arguments[2]
    after = outer(*arguments[:2], horizon + step, *arguments[3:])[0]
    before = outer(*arguments[:2], horizon - step, *arguments[3:])[0]
    np.testing.assert_allclose(gradients[2], (after - before) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_forward_against_brute_force():
    each = jax.value_and_grad(functools.partial(flow_outer, "forward"), (0, 1, 2))
    value, gradients = jax.jit(lambda *arguments: jax.lax.map(lambda a: each(*a), arguments))(*ten_problems())
    check_against_brute_force(value, gradients)


def stiff_outer(w0, features, horizon, labels, ridge, outer):
    w, info = gradient_flow_with_info(w0, features, labels, horizon, ridge=ridge, rtol=1e-8, atol=1e-8)
    return (outer * w).sum(), info


@functools.cache
def stiff_gradient():
    return jax.jit(jax.value_and_grad(stiff_outer, (0, 1, 2, 3, 4), has_aux=True))


def smoothed(labels, smoothing):
    return (1 - smoothing) * labels + smoothing / labels.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize(("smoothing", "ridge"), [(0.1, 0.0), (0.0, 0.05), (0.1, 0.05)])
def test_stiff_flow_against_brute_force(smoothing, ridge):
    w0, features, labels, outer = problem(3, 6, 3, 8, scale=2.0)
    labels = smoothed(labels, smoothing)
    arguments = w0, features, 1e3, labels, ridge
    (value, info), gradients = stiff_gradient()(*arguments, outer)
    assert info.ok and info.steps < 700
    want, want_gradients = brute_gradient()(*arguments, outer)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(gradients[2], want_gradients[2], atol=1e-8)
    for got, expected in zip(gradients[:2] + gradients[3:], want_gradients[:2] + want_gradients[3:]):
        assert relative(got, expected) < 1e-6


@functools.cache
def brute_gradient():
    return jax.jit(jax.value_and_grad(lambda *a: (a[-1] * runge_kutta(*a[:-1])).sum(), (0, 1, 2, 3, 4)))


def resting_point(w0, features, labels):
    """Soft labels and no ridge, at most as many examples as features: the flow fits every label exactly."""

    def centered(a):
        return a - a.mean(1, keepdims=True)

    s = jnp.linalg.solve(features @ features.T, centered(features @ w0.T) - centered(jnp.log(labels)))
    return w0 - s.T @ features


@pytest.mark.slow
def test_long_stiff_flow_rests_at_the_closed_form():
    w0, features, labels, outer = problem(4, 6, 3, 8, scale=2.0)
    labels = smoothed(labels, 0.1)
    (value, info), gradients = stiff_gradient()(w0, features, 1e5, labels, 0.0, outer)
    assert info.ok and info.steps < 700
    want, expected = jax.value_and_grad(lambda *a: (outer * resting_point(*a)).sum(), (0, 1, 2))(
        w0, features, labels
    )
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(gradients[2], 0, atol=1e-9)
    for got, needed in zip(gradients[:2], expected):
        assert relative(got, needed) < 1e-6
    # Labels whose rows do not sum to one are no distribution: compare along the ways only.
    difference = gradients[3] - expected[2]
    assert relative(gradients[3] - difference.mean(1, keepdims=True), expected[2]) < 1e-6


@pytest.mark.slow
def test_explicit_solver_on_a_stiff_flow_has_the_right_gradient():
    """Steps beyond the limit of stability would leave the value intact and the gradient wrong by 1e5."""
    w0, features, labels, outer = problem(4, 6, 3, 8, scale=6.0)
    labels = smoothed(labels, 0.1)
    run = jax.jit(
        jax.value_and_grad(
            lambda w0, x: (outer * gradient_flow(w0, x, labels, 1e3, solver="tsit5")).sum(), (0, 1)
        )
    )
    value, gradients = run(w0, features)
    want, expected = jax.value_and_grad(lambda w0, x: (outer * resting_point(w0, x, labels)).sum(), (0, 1))(
        w0, features
    )
    np.testing.assert_allclose(value, want, rtol=1e-3)
    for got, needed in zip(gradients, expected):
        assert relative(got, needed) < 1e-3


@functools.cache
def batch_in_float32():
    """Five tasks at once: value and gradients by task."""

    def outer(w0, features, horizon, labels, outer_gradient):
        w, info = gradient_flow_with_info(w0, features, labels, horizon)
        return (outer_gradient * w).sum(), (w, info)

    return jax.jit(jax.vmap(jax.value_and_grad(outer, (0, 1, 2), has_aux=True)))


def batch(*, horizons, scales, smoothing=0.0, damage=None):
    rows = []
    for seed, (horizon, scale) in enumerate(zip(horizons, scales)):
        w0, features, labels, outer = problem(seed, 10, 5, 40, scale=scale)
        rows.append((w0, features, jnp.asarray(horizon), smoothed(labels, smoothing), outer))
    columns = [jnp.stack(column).astype(jnp.float32) for column in zip(*rows)]
    if damage is not None:
        columns[1] = columns[1].at[damage, 3, 2].set(jnp.nan)
    return columns


@pytest.mark.slow
def test_tasks_of_a_batch_do_not_touch_each_other():
    good = batch(horizons=[5.0] * 5, scales=[1.0] * 5)
    mixed = batch(horizons=[5.0, 0.0, -1.0, 5.0, 1e4], scales=[1.0, 1.0, 1.0, 1.0, 30.0], damage=3)
    (_, (w, info)), gradients = batch_in_float32()(*good)
    (_, (w_mixed, info_mixed)), gradients_mixed = batch_in_float32()(*mixed)
    assert w.dtype == jnp.float32 and all(g.dtype == jnp.float32 for g in gradients)
    assert info.steps.dtype == jnp.int32

    np.testing.assert_array_equal(info.ok, True)
    np.testing.assert_array_equal(info_mixed.ok, [True, True, False, False, True])
    np.testing.assert_array_equal(w_mixed[0], w[0])
    for a, b in zip(gradients_mixed, gradients):
        np.testing.assert_array_equal(a[0], b[0])
    for failed in (2, 3):  # a negative horizon, a feature that is not a number
        assert jnp.isnan(w_mixed[failed]).all()
        assert all(jnp.isnan(g[failed]).all() for g in gradients_mixed)
    for g in gradients_mixed:
        assert jnp.isfinite(g[4]).all()

    w0, features, _, labels, outer = (column[1] for column in mixed)  # the horizon is 0
    np.testing.assert_array_equal(w_mixed[1], w0)
    np.testing.assert_array_equal(gradients_mixed[0][1], outer)
    np.testing.assert_array_equal(gradients_mixed[1][1], 0)
    ones, none = jnp.ones(10, jnp.float32), jnp.zeros(5, jnp.float32)
    slope = -jax.grad(loss)(w0, w0, features, labels, 0.0, ones, none)
    np.testing.assert_allclose(gradients_mixed[2][1], (outer * slope).sum(), rtol=1e-5)


@pytest.mark.slow
def test_single_precision_does_not_stall_on_long_stiff_flows():
    tasks = batch(horizons=[1e2, 1e3, 1e4, 1e5, 1e6], scales=[3.0] * 5, smoothing=0.1)
    (_, (w, info)), gradients = batch_in_float32()(*tasks)
    assert info.ok.all() and info.steps.max() < 300
    for i in (3, 4):
        w0, features, _, labels, outer = (column[i].astype(float) for column in tasks)
        labels = labels / labels.sum(1, keepdims=True)
        want = jax.grad(lambda w0, x, y=labels, v=outer: (v * resting_point(w0, x, y)).sum(), (0, 1))
        np.testing.assert_allclose(w[i], resting_point(w0, features, labels), atol=1e-4)
        for got, expected in zip((gradients[0][i], gradients[1][i]), want(w0, features)):
            assert relative(got, expected) < 1e-4


def test_unfinished_flow_is_nan_in_value_and_every_gradient():
    w0, features, labels, _ = problem(0, 5, 5, 8)

    def outer(w0, features, labels, horizon, ridge):
        w, info = gradient_flow_with_info(
            w0, features, labels, horizon, ridge=ridge, max_steps=3, solver="tsit5", rtol=1e-9, atol=1e-9
        )
        return w.sum(), info

    (value, info), gradients = jax.jit(jax.value_and_grad(outer, (0, 1, 2, 3, 4), has_aux=True))(
        w0, features, labels, 100.0, 0.1
    )
    assert not info.ok and info.steps == 3
    assert jnp.isnan(value) and all(jnp.isnan(g).all() for g in gradients)


@pytest.mark.parametrize("method", ["adjoint", "full"])
def test_euler_is_gradient_descent(method):
    """K steps in the reduced space are K steps on the head, with the exact meta-gradient; where the horizon
    is no multiple of the step, the last one is shorter."""
    w0, features, labels, outer = problem(1, 10, 5, 7, scale=2.0)
    settings = {"solver": "euler", "step_size": 0.1, "max_steps": 50, "method": method}

    def flow(w0, features, labels, ridge, last):
        return (outer * gradient_flow(w0, features, labels, 3.3 + last, ridge=ridge, **settings)).sum()

    def descent(w0, features, labels, ridge, last):
        sizes = jnp.concatenate([jnp.full(33, 0.1), last[None]])
        return (outer * gradient_descent(w0, features, labels, ridge, sizes)).sum()

    run, reference = (jax.jit(jax.value_and_grad(f, (0, 1, 2, 3, 4))) for f in (flow, descent))
    for last in (0.1, 0.037):
        arguments = w0, features, labels, 0.3, jnp.asarray(last)
        (got, got_gradients), (want, want_gradients) = run(*arguments), reference(*arguments)
        np.testing.assert_allclose(got, want, rtol=1e-12)
        for a, b in zip(got_gradients, want_gradients):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_million_euler_steps_fit_in_little_memory():
    features, labels = jnp.zeros((25, 1600), jnp.float32), jnp.zeros((25, 5), jnp.float32)

    def outer(w0, horizon):
        w = gradient_flow(w0, features, labels, horizon, solver="euler", step_size=0.01, max_steps=10**6)
        return w.sum()

    compiled = jax.jit(jax.grad(outer, (0, 1))).lower(jnp.zeros((5, 1600), jnp.float32), 1e4).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None and analysis.temp_size_in_bytes < 4e6


def test_euler_counts_whole_steps_in_single_precision():
    """1e4 / 0.01 is no whole number in float32."""
    w0, features, labels, _ = (a.astype(jnp.float32) for a in problem(0, 3, 2, 4))
    settings = {"solver": "euler", "step_size": 0.01, "max_steps": 200_000}
    run = jax.jit(lambda t: gradient_flow_with_info(w0, features, labels, t, **settings)[1])
    for steps in (1, 7, 100, 12_345, 100_000):
        assert run(jnp.float32(steps * 0.01)).steps == steps
    assert run(jnp.float32(0.015)).steps == 2
    assert not run(jnp.float32(2001.0)).ok


def test_padding_takes_no_part():
    """Whatever stands in padded examples and absent ways, even where it is not a number."""
    w0, features, labels, _ = problem(2, 6, 3, 5)
    settings = {"ridge": 0.1, "solver": "euler", "step_size": 0.1}
    want = gradient_flow(w0, features, labels, 4.0, **settings)
    wide = padded(w0, 4, 5).at[3].set(7.0)
    got = gradient_flow(
        wide,
        padded(features, 8, 5).at[6:].set(jnp.nan),
        padded(labels, 8, 4).at[6:, 1].set(jnp.nan),
        4.0,
        mask=jnp.arange(8) < 6,
        way_mask=jnp.arange(4) < 3,
        **settings,
    )
    np.testing.assert_allclose(got[:3], want, rtol=1e-12)
    np.testing.assert_array_equal(got[3], wide[3])


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["dopri5", "kvaerno5"])
def test_other_solvers_agree(solver):
    w0, features, labels, _ = problem(2, 6, 3, 5)
    want = jax.jit(functools.partial(runge_kutta, steps=1000))(w0, features, 4.0, labels, 0.1)
    got = gradient_flow(w0, features, labels, 4.0, solver=solver, ridge=0.1, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(got, want, atol=1e-7)


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"method": "backward"}, "unknown method 'backward'; use 'adjoint', 'forward', 'full'"),
        ({"solver": "rk4"}, "no solver 'rk4'; use 'auto', 'tsit5'"),
        ({"solver": "rodas", "method": "forward"}, "method 'forward' has no solver 'rodas'"),
        ({"solver": "euler"}, "positive number as step_size"),
        ({"solver": "euler", "step_size": 0.0}, "positive number as step_size"),
        ({"step_size": 0.1}, "use solver='euler'"),
        ({"max_steps": 0}, "at least 1"),
        ({"horizon": -1.0}, "finite and not negative"),
        ({"horizon": np.nan}, "finite and not negative"),
        ({"horizon": np.inf}, "gradient_flow_limit"),
        ({"horizon": np.ones(2)}, "horizon must be a scalar"),
        ({"ridge": -0.1}, "ridge=-0.1 must be finite and not negative"),
        ({"labels": np.zeros(6, int)}, "jax.nn.one_hot"),
        ({"labels": np.zeros((6, 4))}, r"labels \[shot, way\] of shape \(6, 4\)"),
        ({"features": np.zeros((6, 4))}, r"features \[shot, feature\] of shape \(6, 4\)"),
        ({"features": np.zeros((6, 5), int)}, "floating-point"),
        ({"mask": np.ones(5)}, r"expected \(6,\)"),
        ({"way_mask": np.ones(2)}, r"expected \(3,\)"),
    ],
)
def test_wrong_arguments_are_named(changed, advice):
    w0, features, labels, _ = problem(0, 6, 3, 5)
    arguments = {"w0": w0, "features": features, "labels": labels, "horizon": 1.0} | changed
    with pytest.raises(ValueError, match=advice):
        gradient_flow(**arguments)
