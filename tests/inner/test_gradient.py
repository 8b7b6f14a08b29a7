"""The gradient inner loop against unrolled Python loops, central differences and hand computation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta.inner.gradient import inner_loop
from jmeta.types import Rule

ORDERS = [("exact", "none"), ("exact", "step"), ("mixed", "none"), ("mixed", "step")]


def problem(dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(0), 8)
    shapes = {"w": (3, 4), "b": (4,), "v": (4, 2)}
    params = {n: jax.random.normal(k, s, dtype) for (n, s), k in zip(shapes.items(), keys)}
    outside = {
        "x": jax.random.normal(keys[3], (6, 3), dtype),
        "y": jax.random.randint(keys[4], (6,), 0, 2),
        "weight": jax.random.uniform(keys[5], (6,), dtype),
    }
    query = jax.random.normal(keys[6], (5, 3), dtype), jax.random.randint(keys[7], (5,), 0, 2)
    return params, outside, query


def logits(params, x):
    return jnp.tanh(x @ params["w"] + params["b"][None]) @ params["v"]


def support_loss(params, outside, step):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, outside["x"]), outside["y"])
    return (losses * outside["weight"]).sum() * (1 + 0.1 * step)


def query_loss(params, query):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, query[0]), query[1]).mean()


def outer(rule, steps, **options):
    """The query loss after adaptation as a function of everything that may be learned."""

    def value(params, hyper, floats, integers, query):
        outside = {**floats, **integers}
        fast, _ = inner_loop(lambda p, k: support_loss(p, outside, k), rule, hyper, params, steps, **options)
        return query_loss(fast, query)

    return value


def brute_force(rule, steps):
    """The same by a Python loop that JAX differentiates as it stands."""

    def value(params, hyper, floats, integers, query):
        outside, carry = {**floats, **integers}, rule.start(hyper, params, None)
        for step in range(steps):
            loss, grads = jax.value_and_grad(support_loss)(params, outside, step)
            updates, carry = rule.update(hyper, grads, carry, params, loss=loss, step=jnp.asarray(step))
            params = jax.tree.map(jnp.add, params, updates)
        return query_loss(params, query)

    return value


def momentum(rate):
    """A rule with a learned rate, a carry, and a use for the loss and the step."""

    def update(hyper, grads, carry, params, *, loss, step):
        carry = jax.tree.map(lambda m, g: 0.9 * m + g, carry, grads)
        factor = -hyper["rate"] * (1 + 0.1 * loss) / (1 + step)
        return jax.tree.map(lambda m: factor.astype(m.dtype) * m, carry), carry

    return Rule(
        init=lambda key, params: {"rate": jnp.asarray(rate)},
        start=lambda hyper, params, key: jax.tree.map(jnp.zeros_like, params),
        update=update,
    )


def arguments(rule, dtype=jnp.float64):
    params, outside, query = problem(dtype)
    integers = {"y": outside.pop("y")}
    return params, rule.init(jax.random.key(1), params), outside, integers, query


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), got, expected)


@pytest.fixture(scope="module")
def unrolled():
    """A rule, arguments, and the outer gradient by an unrolled loop of three steps."""
    rule = momentum(0.2)
    args = arguments(rule)
    return rule, args, jax.jit(jax.grad(brute_force(rule, 3), (0, 1, 2)))(*args)


@pytest.mark.parametrize("order, remat", ORDERS)
def test_meta_gradient_matches_the_unrolled_loop(unrolled, order, remat):
    rule, args, expected = unrolled
    got = jax.jit(jax.grad(outer(rule, 3, order=order, remat=remat), (0, 1, 2)))(*args)
    assert_close(got, expected)


def test_meta_gradient_matches_central_differences(unrolled):
    rule, args, grads = unrolled
    value = jax.jit(outer(rule, 3))
    keys = iter(jax.random.split(jax.random.key(2), 20))
    toward = jax.tree.map(lambda a: jax.random.normal(next(keys), a.shape, a.dtype), args[:3])

    def at(size):
        return value(*jax.tree.map(lambda a, d: a + size * d, args[:3], toward), *args[3:])

    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    np.testing.assert_allclose(optax.tree.vdot(grads, toward), slope, rtol=1e-7)


def test_mixed_under_vmap_over_tasks_and_without_jit():
    rule = jmeta.sgd(0.3, learn="leaf")
    params, hyper, floats, integers, query = arguments(rule)
    tasks = jax.tree.map(lambda a: jnp.stack([a, a[::-1], 2 * a]), (floats, query[0]))

    def total(order, params, hyper, shift):
        value = outer(rule, 3, order=order)

        def one(floats, x):
            floats = {**floats, "x": floats["x"] + shift}
            return value(params, hyper, floats, integers, (x, query[1]))

        return jax.vmap(one)(*tasks).sum()

    shift = jnp.asarray(0.1)
    gradient = jax.grad(total, (1, 2, 3))
    exact = jax.jit(gradient, static_argnums=0)("exact", params, hyper, shift)
    assert_close(gradient("mixed", params, hyper, shift), exact)


def test_mixed_with_typed_keys_and_aux_among_what_the_loss_closes_over():
    params, outside, query = problem()

    def value(params, key, order):
        def loss(p, step):
            noise = jax.random.normal(jax.random.fold_in(key, step), outside["x"].shape, outside["x"].dtype)
            noisy = {**outside, "x": outside["x"] + noise}
            return support_loss(p, noisy, step), {"count": step, "sum": p["w"].sum()}

        fast, trace = inner_loop(loss, jmeta.sgd(0.1), (), params, 3, order=order, has_aux=True)
        return query_loss(fast, query) + trace.aux["sum"].sum(), trace.aux["count"]

    gradient = jax.jit(jax.grad(value, has_aux=True), static_argnums=2)
    (exact, count), (mixed, _) = (gradient(params, jax.random.key(3), order) for order in ("exact", "mixed"))
    assert_close(mixed, exact)
    assert count.tolist() == [0, 1, 2]


def test_one_step_on_a_quadratic_by_hand():
    # L(w) = a w^2 / 2 gives w1 = (1 - r a) w; outer Q = w1^2 / 2, so dQ/dw = (1 - r a)^2 w,
    # dQ/dr = -a w w1, dQ/da = -r w w1.
    w, r, a = 1.5, 0.1, 3.0
    w1 = (1 - r * a) * w

    def value(w, r, a, order):
        fast, _ = inner_loop(lambda p, k: a * p**2 / 2, jmeta.sgd(0.0, learn="scalar"), r, w, 1, order=order)
        return fast**2 / 2

    for order in ("exact", "mixed"):
        got = jax.grad(value, (0, 1, 2))(w, r, a, order)
        np.testing.assert_allclose(got, ((1 - r * a) * w1, -a * w * w1, -r * w * w1), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(value, (0, 1))(w, r, a, "first"), (w1, -a * w * w1), rtol=1e-12)


def test_learned_update_scalar_example_of_turtle():
    # Support (2, 5), query (4, 9), y = w x, squared error, update m g with m = -0.01, two steps from w = 1.
    rule = Rule(
        init=lambda key, params: jnp.asarray(-0.01),
        start=lambda hyper, params, key: (),
        update=lambda m, g, carry, params, *, loss, step: (m * g, carry),
    )

    def value(m, w, order):
        fast, trace = inner_loop(lambda w, k: (5 - 2 * w) ** 2, rule, m, w, 2, order=order)
        return (9 - 4 * fast) ** 2, (fast, trace.losses)

    for order, slopes in (
        ("first", (751.73, -32.6272)),
        ("exact", (720.41, -27.6157)),
        ("mixed", (720.41, -27.6157)),
    ):
        (q, (fast, losses)), got = jax.value_and_grad(value, (0, 1), has_aux=True)(-0.01, 1.0, order)
        np.testing.assert_allclose(got, slopes, rtol=1e-5)
        np.testing.assert_allclose((q, fast), (16.6333, 1.2304), rtol=1e-5)
        np.testing.assert_allclose(losses, [9.0, (5 - 2.24) ** 2], rtol=1e-12)


def test_first_order_is_the_gradient_at_the_adapted_parameters_and_rates_still_learn():
    rule = jmeta.sgd(0.2, learn="leaf")
    params, hyper, floats, integers, query = arguments(rule)
    outside = {**floats, **integers}

    @jax.jit
    def by_hand(walked):
        total = jax.tree.map(jnp.zeros_like, walked)
        for k in range(3):
            grads = jax.grad(support_loss)(walked, outside, k)
            total = jax.tree.map(jnp.add, total, grads)
            walked = jax.tree.map(lambda p, g: p - 0.2 * g, walked, grads)
        return jax.grad(query_loss)(walked, query), total

    at_end, total = by_hand(params)
    got = jax.jit(jax.grad(outer(rule, 3, order="first"), (0, 1, 2)))(params, hyper, floats, integers, query)
    assert_close(got[0], at_end)
    assert_close(got[1], jax.tree.map(lambda g, s: -(g * s).sum(), at_end, total))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(got[2]))


@pytest.mark.parametrize("order", ["exact", "mixed", "first"])
def test_collect_sees_each_step_and_is_differentiable(order):
    def value(w):
        def pick(params, step, *, loss, grads, carry):
            return {"w": params, "loss": loss, "g": grads, "step": step}

        fast, trace = inner_loop(lambda p, k: p**2 / 2, jmeta.sgd(0.5), (), w, 3, order=order, collect=pick)
        return trace.collected["w"].sum(), (fast, trace)

    slope, (fast, trace) = jax.grad(value, has_aux=True)(8.0)
    np.testing.assert_allclose(trace.collected["w"], [4.0, 2.0, 1.0])
    np.testing.assert_allclose(trace.collected["g"], [8.0, 4.0, 2.0])
    np.testing.assert_allclose(trace.collected["loss"], [32.0, 8.0, 2.0])
    np.testing.assert_allclose(trace.losses, [32.0, 8.0, 2.0])
    assert fast == 1.0 and trace.collected["step"].tolist() == [0, 1, 2]
    assert slope == (3.0 if order == "first" else 0.875)


def test_float32_stays_float32_and_no_steps_adapt_nothing():
    rule = momentum(0.2)
    params, outside, _ = problem(jnp.float32)
    hyper = {"rate": jnp.asarray(0.2, jnp.float32)}

    def run(steps, order):
        return inner_loop(lambda p, k: support_loss(p, outside, k), rule, hyper, params, steps, order=order)

    for order in ("exact", "mixed", "first"):
        fast, trace = jax.eval_shape(lambda: run(2, order))  # noqa: B023
        assert {leaf.dtype for leaf in jax.tree.leaves((fast, trace))} == {jnp.dtype("float32")}
    fast, trace = run(0, "exact")
    jax.tree.map(np.testing.assert_array_equal, fast, params)
    assert trace.losses.shape == (0,)


def test_memory_does_not_grow_with_the_steps():
    params = {"w": jnp.ones((16, 16))}
    x = jnp.ones((4096, 16))

    def temporary(steps, **options):
        def value(params):
            def loss(p, k):
                return jnp.square(jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"])).mean()

            return loss(inner_loop(loss, jmeta.sgd(0.1), (), params, steps, **options)[0], 0)

        return jax.jit(jax.grad(value)).lower(params).compile().memory_analysis().temp_size_in_bytes

    for options in ({"order": "exact"}, {"order": "mixed", "remat": "none"}):
        assert temporary(40, **options) < 1.2 * temporary(2, **options)
    assert temporary(40, remat="none") > 4 * temporary(2, remat="none")


@pytest.mark.parametrize("order", ["exact", "mixed", "first"])
def test_a_carry_that_changes_type_is_one_sentence(order):
    def rule(after):
        return Rule(
            init=lambda key, params: (),
            start=lambda hyper, params, key: {"m": jnp.zeros(3, jnp.float32)},
            update=lambda hyper, g, carry, params, *, loss, step: (-0.1 * g, after),
        )

    def run(after):
        return inner_loop(lambda p, k: (p**2).sum(), rule(after), (), jnp.ones(3), 2, order=order)

    with pytest.raises(ValueError, match=r"carry\['m'\] changes in a step from float32\[3\] to float64\[3\]"):
        run({"m": jnp.zeros(3)})
    with pytest.raises(ValueError, match="carry's structure changes"):
        run({"n": jnp.zeros(3, jnp.float32)})


def test_settings_that_mean_nothing():
    def run(**options):
        return inner_loop(lambda p, k: p**2, jmeta.sgd(0.1), (), 1.0, options.pop("steps", 1), **options)

    for options in ({"order": "second"}, {"remat": "all"}, {"steps": -1}, {"steps": jnp.asarray(2)}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}="):
            run(**options)


def test_adam_without_room_at_zero_raises_with_advice():
    trap, safe = (jmeta.from_optax(optax.adam(0.1, eps_root=root)) for root in (0.0, 1e-8))

    def value(p, rule, order):
        # The second coordinate never has a gradient.
        return inner_loop(lambda p, k: p[0] ** 2, rule, (), p, 2, order=order)[0].sum()

    p = jnp.ones(2)
    for order in ("exact", "mixed"):
        with pytest.raises(ValueError, match="eps_root=1e-8"):
            jax.jit(jax.grad(value), static_argnums=(1, 2))(p, trap, order)
        assert np.isfinite(jax.grad(value)(p, safe, order)).all()
    assert np.isfinite(jax.grad(value)(p, trap, "first")).all()
