"""Learners of consecutive batches against plain loops in float64 that follow the papers' pseudo-code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from reference import KEYS, gradient, loss_and_grads

import jmeta
from jmeta.adapters.gradient import gradient_adapter
from jmeta.adapters.metacog import metacog
from jmeta.online.bgd import bgd, noise_like
from jmeta.online.c_maml import c_maml
from jmeta.online.frozen import frozen
from jmeta.online.meta_bgd import meta_bgd
from jmeta.online.online_adam import online_adam
from jmeta.rules.masked_sgd import masked_sgd
from jmeta.rules.sgd import sgd
from jmeta.types import Batch

RATE, STEPS, META_RATE = 0.4, 2, 0.05


@pytest.fixture(scope="module")
def batches():
    """x [step, example, input], y [step, example]: tasks of 6, 1, 2, 1, 7 and 3 batches with labels of their
    own, so that some phases are long, and some switches follow one another."""
    random = np.random.default_rng(1)
    x, y = [], []
    for length in (6, 1, 2, 1, 7, 3):
        weights = 3 * random.normal(size=(6, 3))
        for _ in range(length):
            x.append(random.normal(size=(8, 6)))
            y.append((x[-1] @ weights).argmax(1).astype(np.int32))
    return np.stack(x), np.stack(y)


def adapter_of(model, rule, steps=STEPS, order="first"):
    return gradient_adapter(model, jmeta.cross_entropy, rule, steps, order=order)


def observe_all(learner, batches, key=None, meta=None):
    """States before and after each batch, and what was reported; `meta` replaces some slow weights."""
    key = jax.random.key(0) if key is None else key
    x, y = (jnp.asarray(part) for part in batches)
    state = jax.jit(learner.init)(jax.random.key(7), x[0])
    if meta is not None:
        state = state._replace(slow=state.slow._replace(meta=state.slow.meta | meta))
    observe = jax.jit(learner.observe)
    states, infos = [state], []
    for step in range(len(x)):
        state, info = observe(states[-1], Batch(x[step], y[step]), jax.random.fold_in(key, step))
        states.append(state)
        infos.append({name: float(value) for name, value in info.items()})
    return states, infos


class Adam:
    """Adam by its own formulas, on a dictionary."""

    def __init__(self, rate):
        self.rate, self.count, self.m, self.v = rate, 0, {}, {}

    def __call__(self, params, grads):
        self.count += 1
        new = {}
        for k, g in grads.items():
            self.m[k] = 0.1 * g + 0.9 * self.m.get(k, 0)
            self.v[k] = 0.001 * g**2 + 0.999 * self.v.get(k, 0)
            m, v = self.m[k] / (1 - 0.9**self.count), self.v[k] / (1 - 0.999**self.count)
            new[k] = params[k] - self.rate * m / (np.sqrt(v) + 1e-8)
        return new


def adapt(params, rates, x, y, steps=STEPS):
    """Gradient steps with a rate (a number or an array) for each parameter; also the sum of the gradients."""
    total = {k: np.zeros_like(v) for k, v in params.items()}
    for _ in range(steps):
        g = gradient(params, x, y)
        params = {k: params[k] - rates[k] * g[k] for k in KEYS}
        total = {k: total[k] + g[k] for k in KEYS}
    return params, total


def assert_equal(ours, theirs):
    for k in KEYS:
        np.testing.assert_allclose(ours[k], theirs[k], rtol=1e-7, atol=1e-10)


def weight(value, modulation):
    return 1 - np.exp(-modulation * value)


class Learned:
    """What a loop learns beside theta: how it makes rates, and the gradient of them (first order)."""

    def __init__(self, kind):
        self.kind = kind

    def rates(self, hyper):
        if self.kind == "masked":
            return {k: RATE * (v >= 0) for k, v in hyper.items()}
        return hyper

    def gradient(self, outer, total):
        if self.kind == "masked":
            return {k: -RATE * outer[k] * total[k] for k in KEYS}
        return {k: -(outer[k] * total[k]).sum() for k in KEYS}


def continual_maml(theta, hyper, learned, batches, restart, threshold, modulation, limit, mask_rate):
    """The full algorithm, line by line: (theta, hyper, phi, detected, updated) after each batch."""
    adam, adam_rates = Adam(META_RATE), Adam(mask_rate)
    buffer, phi, last, history = [], None, False, []

    def meta_update(theta, hyper):
        pairs = buffer * 2 if len(buffer) == 1 else buffer
        half = -(-len(pairs) // 2)
        pairs = [(pairs[i], pairs[half + i]) for i in range(len(pairs) - half)]
        losses, outer, slopes = [], [], []
        for first, second in pairs:
            fast, total = adapt(theta, learned.rates(hyper), *first)
            value, g = loss_and_grads(fast, *second)
            losses.append(value)
            outer.append(g)
            slopes.append(learned.gradient(g, total))
        w = weight(np.mean(losses), modulation)
        mean = {k: w * np.mean([g[k] for g in outer], 0) for k in KEYS}
        mean_slope = {k: w * np.mean([s[k] for s in slopes], 0) for k in KEYS}
        return adam(theta, mean), adam_rates(hyper, mean_slope)

    for x, y in zip(*batches):
        data, detected, updated = (x, y), False, False
        if phi is None:
            phi, _ = adapt(theta, learned.rates(hyper), x, y)
            buffer.append(data)
        else:
            before = loss_and_grads(phi, x, y)[0]
            phi, _ = adapt(theta if last else phi, learned.rates(hyper), x, y)
            detected = before - loss_and_grads(phi, x, y)[0] >= threshold
            if (detected and buffer) or len(buffer) > limit:
                theta, hyper = meta_update(theta, hyper)
                buffer, updated = [], True
            else:
                buffer.append(data)
            if restart == "immediate" and updated:
                buffer = [data]
                if detected:
                    phi, _ = adapt(theta, learned.rates(hyper), x, y)
            last = detected and restart == "code"
        history.append((theta, hyper, phi, detected, updated))
    return history


RULES = {"leaf": lambda: sgd(RATE, learn="leaf"), "masked": lambda: masked_sgd(RATE)}


@pytest.mark.parametrize(("kind", "restart"), [("leaf", "code"), ("masked", "immediate")])
def test_c_maml_is_the_pseudo_code(kind, restart, model, batches, as_numpy):
    """With learned rates by the same Adam, and with masks by an Adam of their own."""
    mask_rate = META_RATE if kind == "leaf" else 0.3
    parts = {"params": optax.adam(META_RATE), "rule": optax.adam(mask_rate)}
    tx = optax.partition(parts, {"params": "params", "rule": "rule"})
    tx = optax.adam(META_RATE) if kind == "leaf" else tx
    settings = {"threshold": 0.5, "modulation": 0.7, "restart": restart, "limit": 2}
    learner = c_maml(adapter_of(model, RULES[kind]()), jmeta.cross_entropy, tx=tx, **settings)
    states, infos = observe_all(learner, batches)
    meta = states[0].slow.meta
    history = continual_maml(
        as_numpy(meta["params"]), as_numpy(meta["rule"]), Learned(kind), batches, restart, 0.5, 0.7, 2,
        mask_rate,
    )  # fmt: skip
    for state, info, (theta, hyper, phi, detected, updated) in zip(states[1:], infos, history, strict=True):
        assert (info["detected"], info["updated"]) == (detected, updated)
        assert_equal(state.slow.meta["params"], theta)
        assert_equal(state.slow.meta["rule"], hyper)
        assert_equal(state.fast.params, phi)
    events = [(detected, updated) for *_, detected, updated in history]
    assert {(True, True), (False, True), (False, False)} <= set(events)
    if restart == "code":
        assert (True, False) in events  # a switch right after a switch, with nothing in the buffer
    if kind == "masked":
        rates = Learned(kind).rates(history[-1][1])
        assert any((v == 0).any() for v in rates.values()) and any((v > 0).any() for v in rates.values())


def test_a_prediction_is_scored_before_its_labels_are_used(model, batches):
    learner = c_maml(adapter_of(model, sgd(RATE)), jmeta.cross_entropy, tx=optax.adam(META_RATE))
    states, infos = observe_all(learner, batches)
    predict = jax.jit(learner.predict)
    for state, info, x, y in zip(states, infos, *batches):
        outputs = predict(state, jnp.asarray(x))
        np.testing.assert_allclose(info["loss"], jmeta.cross_entropy(outputs, Batch(x, jnp.asarray(y))))
        assert info["accuracy"] == np.mean(np.asarray(outputs).argmax(1) == y)
    np.testing.assert_allclose(infos[0]["loss"], np.log(3))  # nothing is known before the first batch


def test_c_maml_without_prolonged_phases_learns_from_consecutive_batches(model, batches, as_numpy):
    tx, threshold, modulation = optax.adam(META_RATE), 0.4, 0.7
    learner = c_maml(
        adapter_of(model, sgd(RATE, learn="leaf")), jmeta.cross_entropy, tx=tx, threshold=threshold,
        modulation=modulation, prolonged=False,
    )  # fmt: skip
    states, infos = observe_all(learner, batches)
    meta = states[0].slow.meta
    theta, hyper, learned = as_numpy(meta["params"]), as_numpy(meta["rule"]), Learned("leaf")
    adam, adam_rates, previous, seen = Adam(META_RATE), Adam(META_RATE), None, set()
    for state, info, x, y in zip(states[1:], infos, *batches):
        detected = False
        if previous is not None:
            fast, total = adapt(theta, hyper, *previous)
            value, outer = loss_and_grads(fast, x, y)
            after = loss_and_grads(adapt(theta, hyper, x, y)[0], x, y)[0]
            detected = value - after >= threshold
            np.testing.assert_allclose(info["loss"], value, rtol=1e-9)
            if not detected:
                w = weight(value, modulation)
                slope = learned.gradient(outer, total)
                theta = adam(theta, {k: w * outer[k] for k in KEYS})
                hyper = adam_rates(hyper, {k: w * slope[k] for k in KEYS})
        assert info["detected"] == detected
        assert_equal(state.slow.meta["params"], theta)
        assert_equal(state.slow.meta["rule"], hyper)
        seen.add(detected)
        previous = (x, y)
    assert seen == {True, False}


def test_degenerate_c_mamls_are_each_other(model, batches):
    """A mask that lets all through is a fixed rate, w = 1 with a large lambda, nothing is seen with a large
    gamma."""

    def params(rule=None, meta=None, **settings):
        parts = {"params": optax.adam(META_RATE), "rule": optax.sgd(0.0)}
        tx = optax.partition(parts, {"params": "params", "rule": "rule"})
        learner = c_maml(
            adapter_of(model, rule or sgd(RATE)), jmeta.cross_entropy, tx=tx, limit=3, **settings
        )
        states, infos = observe_all(learner, batches, meta=meta)
        return states[-1].slow.meta["params"], [info["detected"] for info in infos]

    plain, detected = params(threshold=0.4, modulation=1000.0)
    assert any(detected)
    ones = {k: jnp.ones_like(v) for k, v in plain.items()}
    assert_equal(params(masked_sgd(RATE), {"rule": ones}, threshold=0.4)[0], plain)
    never, undetected = params(threshold=1000.0)
    assert not any(undetected)
    assert any((never[k] != plain[k]).any() for k in KEYS)


def test_frozen_adapts_anew_and_online_adam_descends(model, batches, as_numpy):
    states, infos = observe_all(frozen(adapter_of(model, sgd(RATE)), jmeta.cross_entropy), batches)
    theta, rates = as_numpy(states[0].slow.meta["params"]), dict.fromkeys(KEYS, RATE)
    for step, state in enumerate(states[1:]):
        assert_equal(state.slow.meta["params"], theta)
        phi, _ = adapt(theta, rates, batches[0][step], batches[1][step])
        assert_equal(state.fast.params, phi)
        if step + 1 < len(infos):
            value = loss_and_grads(phi, batches[0][step + 1], batches[1][step + 1])[0]
            np.testing.assert_allclose(infos[step + 1]["loss"], value, rtol=1e-9)
    learner = online_adam(
        adapter_of(model, sgd(RATE), steps=0), jmeta.cross_entropy, tx=optax.adam(META_RATE)
    )
    states, infos = observe_all(learner, batches)
    params, adam = as_numpy(states[0].slow.meta["params"]), Adam(META_RATE)
    for state, info, x, y in zip(states[1:], infos, *batches):
        value, g = loss_and_grads(params, x, y)
        np.testing.assert_allclose(info["loss"], value, rtol=1e-9)
        params = adam(params, g)
        assert_equal(state.slow.meta["params"], params)
    last = model.apply(states[-1].slow.meta["params"], {}, x, train=True)[0]
    np.testing.assert_allclose(learner.predict(states[-1], jnp.asarray(x)), last)


def bayesian(mean, deviation, episode_gradient, noises, rate):
    """One step of BGD by its closed formulas; `episode_gradient(theta)` is that of a summed loss."""
    e1 = {k: np.zeros_like(v) for k, v in mean.items()}
    e2 = {k: np.zeros_like(v) for k, v in mean.items()}
    for eps in noises:
        g = episode_gradient({k: mean[k] + deviation[k] * eps[k] for k in KEYS})
        e1 = {k: e1[k] + g[k] / len(noises) for k in KEYS}
        e2 = {k: e2[k] + g[k] * eps[k] / len(noises) for k in KEYS}
    new_mean = {k: mean[k] - rate * deviation[k] ** 2 * e1[k] for k in KEYS}
    new = {
        k: deviation[k] * np.sqrt(1 + (deviation[k] * e2[k] / 2) ** 2) - deviation[k] ** 2 * e2[k] / 2
        for k in KEYS
    }
    return new_mean, new


def logistic(z):
    return 1 / (1 + np.exp(-z))


def metacog_gradient(theta, previous, x, y, initial, penalty):
    """First-order gradient of the loss after the inner loop has adapted masks of W1, b1 and the weights W2,
    b2."""
    z = {k: np.full_like(theta[k], initial) for k in ("W1", "b1")}
    direct = {k: theta[k] for k in ("W2", "b2")}
    for _ in range(STEPS):
        effective = {k: theta[k] * logistic(z[k]) for k in z} | direct
        g = gradient(effective, *previous)
        slope = {k: logistic(z[k]) * (1 - logistic(z[k])) for k in z}
        z = {k: z[k] - RATE * slope[k] * (g[k] * theta[k] + penalty) for k in z}
        direct = {k: direct[k] - RATE * g[k] for k in direct}
    g = gradient({k: theta[k] * logistic(z[k]) for k in z} | direct, x, y)
    return {k: g[k] * logistic(z[k]) if k in z else g[k] for k in KEYS}


@pytest.mark.parametrize("name", ["bgd", "meta_bgd", "metacog"])
def test_bayesian_learners_are_their_closed_formulas(name, model, batches, as_numpy):
    settings = {"learning_rate": 3.0, "deviation": 0.2, "samples": 3}
    masks = {"masked": ["W1", "b1"], "adapted": ["W2", "b2"], "mask_initial": 0.3, "mask_penalty": 0.02}
    learner = {
        "bgd": lambda: bgd(adapter_of(model, sgd(RATE), steps=0), jmeta.cross_entropy, **settings),
        "meta_bgd": lambda: meta_bgd(adapter_of(model, sgd(RATE)), jmeta.cross_entropy, **settings),
        "metacog": lambda: meta_bgd(
            metacog(model, jmeta.cross_entropy, inner_lr=RATE, inner_steps=STEPS, order="first", **masks),
            jmeta.cross_entropy,
            **settings,
        ),
    }[name]()
    key, batches = jax.random.key(5), tuple(part[:5] for part in batches)
    states, infos = observe_all(learner, batches, key)
    mean = as_numpy(states[0].belief.mean["params"])
    deviation = {k: np.full_like(v, 0.2) for k, v in mean.items()}
    previous = None
    for step, (x, y) in enumerate(zip(*batches)):
        if name == "bgd" or previous is not None:
            keys = jax.random.split(jax.random.fold_in(key, step), 3)
            noises = [as_numpy(noise_like(states[0].belief.mean, k)["params"]) for k in keys]

            def episode_gradient(theta, x=x, y=y, previous=previous):
                if name == "bgd":
                    g = gradient(theta, x, y)
                elif name == "meta_bgd":
                    g = gradient(adapt(theta, dict.fromkeys(KEYS, RATE), *previous)[0], x, y)
                else:
                    g = metacog_gradient(theta, previous, x, y, 0.3, 0.02)
                return {k: len(y) * v for k, v in g.items()}

            if name == "bgd":  # the score is the mean over the draws
                drawn = [{k: mean[k] + deviation[k] * eps[k] for k in KEYS} for eps in noises]
                losses = [loss_and_grads(theta, x, y)[0] for theta in drawn]
                np.testing.assert_allclose(infos[step]["loss"], np.mean(losses), rtol=1e-9)
            mean, deviation = bayesian(mean, deviation, episode_gradient, noises, 3.0)
        assert_equal(states[step + 1].belief.mean["params"], mean)
        assert_equal(states[step + 1].belief.std["params"], deviation)
        previous = (x, y)
    assert min(v.min() for v in deviation.values()) < 0.2 < max(v.max() for v in deviation.values())


def test_a_learner_goes_on_from_an_episodic_outer_loop(model, batches):
    """Its slow weights, optimizer and all, are a `LearnerState` of `jmeta.learner` of the same adapter."""
    adapter, tx = adapter_of(model, sgd(RATE, learn="leaf")), optax.adam(META_RATE)
    x, y = (jnp.asarray(part) for part in batches)
    task = jmeta.Task(Batch(x[0], y[0]), Batch(x[1], y[1]))
    outer = jmeta.learner(adapter, jmeta.cross_entropy, tx)
    start = jax.jit(outer.init)(jax.random.key(2), task)
    trained, _ = jax.jit(outer.step)(start, jax.tree.map(lambda leaf: leaf[None], task))
    learner = c_maml(adapter, jmeta.cross_entropy, tx=tx, prolonged=False)
    state, observe = jax.jit(learner.init)(jax.random.key(7), x[0]), jax.jit(learner.observe)
    assert jax.tree.structure(state.slow) == jax.tree.structure(trained)
    state = state._replace(slow=start)
    for step in range(2):  # the second batch is the query of the first, as in the outer loop's task
        state, _ = observe(state, Batch(x[step], y[step]), jax.random.key(0))
    assert_equal(state.slow.meta["params"], trained.meta["params"])


def test_what_cannot_be_is_said(model):
    adapter = adapter_of(model, sgd(RATE))
    with pytest.raises(ValueError, match="restart='late'; expected one of code, immediate"):
        c_maml(adapter, jmeta.cross_entropy, tx=optax.adam(0.1), restart="late")
    with pytest.raises(ValueError, match="bgd: samples=0; expected a positive number"):
        bgd(adapter, jmeta.cross_entropy, samples=0)
    with pytest.raises(ValueError, match="meta_bgd: deviation=0"):
        meta_bgd(adapter, jmeta.cross_entropy, deviation=0)
    assert reference.KEYS == KEYS
