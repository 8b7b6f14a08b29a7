"""Sparse-MAML and its relatives against NumPy written from the paper, in float64, and what they become where
nothing is left to learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.adapters.sparse_maml import exp_maml, sparse_maml, sparse_relu_maml
from jmeta.adapters.sparse_maml_plus import sparse_maml_plus
from jmeta.models.resnet12_boil import resnet12_boil
from jmeta.outer.by_part import by_part
from jmeta.outer.episode import adapt_and_predict
from jmeta.types import Batch, Task

RATE, STEPS, WAY = 0.2, 3, 3
NET = jmeta.mlp(widths=(5,), outputs=WAY)
LOSS = jmeta.cross_entropy
# name: adapter, rate of a score, its derivative (0.5 where the scores have a factor of the code's).
MASKED = {
    "sparse_maml": (
        sparse_maml(NET, LOSS, inner_lr=RATE, inner_steps=STEPS, mask_factor=0.5),
        lambda m: RATE * (m >= 0),
        lambda m: np.full_like(m, 0.5 * RATE),
    ),
    "sparse_relu_maml": (
        sparse_relu_maml(NET, LOSS, inner_lr=RATE, inner_steps=STEPS),
        lambda m: np.maximum(m, 0),
        np.ones_like,
    ),
    "exp_maml": (exp_maml(NET, LOSS, inner_lr=RATE, inner_steps=STEPS), np.exp, np.exp),
}
# path: array of the network above; the last two are the classifier's.
PATHS = (("dense_0", "kernel"), ("dense_0", "bias"), ("head", "kernel"), ("head", "bias"))


def draw_batch(random, count):
    x = random.normal(size=(count, 4))
    return Batch(jnp.asarray(x), jnp.asarray(np.arange(count) % WAY, jnp.int32))


def draw_task(seed):
    random = np.random.default_rng(seed)
    return Task(draw_batch(random, 6), draw_batch(random, 9))


def draw_like(tree, seed, scale=1.0):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * scale), tree)


def arrays(tree):
    return [np.asarray(tree[layer][name]) for layer, name in PATHS]


def as_tree(values):
    tree = {"dense_0": {}, "head": {}}
    for (layer, name), value in zip(PATHS, values):
        tree[layer][name] = value
    return tree


def gradient(weights, batch):
    """Of the mean cross-entropy of an MLP with one hidden layer of ReLUs, by hand."""
    x, y = np.asarray(batch.x), np.asarray(batch.y)
    w1, b1, w2, b2 = weights
    before = x @ w1 + b1
    hidden = np.maximum(before, 0)
    logits = hidden @ w2 + b2
    shares = np.exp(logits - logits.max(1, keepdims=True))
    error = (shares / shares.sum(1, keepdims=True) - np.eye(WAY)[y]) / len(y)
    below = (error @ w2.T) * (before > 0)
    return [x.T @ below, below.sum(0), hidden.T @ error, error.sum(0)]


def trajectory(weights, rates, task):
    """Adapted weights, the outer gradient G there, and the sum S of the inner ones."""
    fast, total = list(weights), [np.zeros_like(w) for w in weights]
    for _ in range(STEPS):
        grads = gradient(fast, task.support)
        fast = [w - rate * g for w, rate, g in zip(fast, rates, grads)]
        total = [s + g for s, g in zip(total, grads)]
    return fast, gradient(fast, task.query), total


def outer_loss(adapter, meta, state, task):
    key = jax.random.key(0)  # of which these draw nothing
    outputs, _, _ = adapt_and_predict(adapter, meta, state, task.support, task.query.x, key, train=True)
    return LOSS(outputs, task.query)


def random_meta(adapter):
    """Meta-parameters with weights and learned parts drawn at random, in float64."""
    meta, state = adapter.init(jax.random.key(0), jnp.zeros((1, 4)))
    return {"params": draw_like(meta["params"], 1), "rule": draw_like(meta["rule"], 2, 0.5)}, state


@pytest.mark.parametrize("name", MASKED)
def test_gradients_are_the_sum_over_the_trajectory(name):
    """Equation 5: that of the weights is G, that of the scores - r'(m) G S."""
    adapter, rate, slope = MASKED[name]
    meta, state = random_meta(adapter)
    task = draw_task(3)
    weights, scores = arrays(meta["params"]), arrays(meta["rule"])
    assert 0 < sum((m < 0).sum() for m in scores) < sum(m.size for m in scores)
    _, outer, total = trajectory(weights, [rate(m) for m in scores], task)
    slopes = jax.jit(jax.grad(functools.partial(outer_loss, adapter)))(meta, state, task)
    expected = [-slope(m) * g * s for m, g, s in zip(scores, outer, total)]
    for ours, theirs in zip(arrays(slopes["params"]) + arrays(slopes["rule"]), outer + expected):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MASKED)
def test_an_outer_step_has_two_optimizers(name):
    """Two tasks: SGD with Nesterov momentum for the weights, Adam for the scores."""
    adapter, rate, slope = MASKED[name]
    tx = by_part(jmeta.optimizer("sgd", 0.1), jmeta.optimizer("adam", 0.03))
    learner = jmeta.learner(adapter, LOSS, tx)
    state = learner.init(jax.random.key(0), jnp.zeros((1, 4)))
    meta, _ = random_meta(adapter)
    tasks = [draw_task(seed) for seed in (3, 4)]
    after, info = jax.jit(learner.step)(
        state._replace(meta=meta), jax.tree.map(lambda *a: jnp.stack(a), *tasks)
    )
    weights, scores = arrays(meta["params"]), arrays(meta["rule"])
    parts = [trajectory(weights, [rate(m) for m in scores], task)[1:] for task in tasks]
    for index, (w, m) in enumerate(zip(weights, scores)):
        g = sum(outer[index] for outer, _ in parts) / 2
        of_score = sum(-slope(m) * outer[index] * total[index] for outer, total in parts) / 2
        adam = of_score / (np.abs(of_score) + 1e-8)
        np.testing.assert_allclose(arrays(after.meta["params"])[index], w - 0.19 * g, rtol=0, atol=1e-10)
        np.testing.assert_allclose(arrays(after.meta["rule"])[index], m - 0.03 * adam, rtol=0, atol=1e-7)
    assert_reports(name, info, [rate(m) for m in scores])


def assert_reports(name, info, rates):
    """The numbers of a training step, [task], of each array and of all together."""
    flat = np.concatenate([np.broadcast_to(r, r.shape).ravel() for r in rates])
    if name != "exp_maml":
        assert info["sparsity"].tolist() == [pytest.approx((flat == 0).mean())] * 2
        assert info["sparsity/head/kernel"][0] == pytest.approx((rates[2] == 0).mean())
    if name != "sparse_maml":
        assert info["inner_rate"][0] == pytest.approx(flat.mean())
        assert info["inner_rate/dense_0/bias"][0] == pytest.approx(rates[1].mean())


def test_masks_that_a_task_draws():
    """Sparse-MAML+, forward and backward through the generator, with everything learned drawn at random."""
    shift, factor, dimension = 0.6, 0.5, 6
    adapter = sparse_maml_plus(
        NET, LOSS, inner_lr=RATE, inner_steps=STEPS, mask_dimension=dimension, mask_factor=factor,
        mask_shift=shift,
    )  # fmt: skip
    meta, state = random_meta(adapter)
    task, key = draw_task(3), jax.random.key(7)
    generator = jax.tree.map(np.asarray, meta["rule"]["generator"])
    direct = meta["rule"]["scores"]["head"]
    noise = np.asarray(jax.random.normal(jax.random.split(key)[0], (dimension,)))
    z = generator["mean"] + generator["deviation"] * noise
    drawn = (z @ generator["kernel"] + generator["bias"] + shift).reshape(4, 5)
    # The hidden bias has no mask.
    scores = [drawn, np.ones(5), np.asarray(direct["kernel"]), np.asarray(direct["bias"])]
    fast, outer, total = trajectory(arrays(meta["params"]), [RATE * (m >= 0) for m in scores], task)

    def loss(meta):
        adapted, _, info = adapter.adapt(meta, state, task.support, key, train=True)
        outputs, _ = adapter.predict(meta, adapted, state, task.query.x, None, train=True)
        return LOSS(outputs, task.query), (adapted.params, info)

    slopes, (adapted, info) = jax.jit(jax.grad(loss, has_aux=True))(meta)
    of_scores = [-RATE * factor * g * s for g, s in zip(outer, total)]
    of_drawn = of_scores[0].ravel()
    of_z = generator["kernel"] @ of_drawn
    expected = {
        "generator": {
            "mean": of_z, "deviation": of_z * noise, "kernel": np.outer(z, of_drawn), "bias": of_drawn,
        },
        "scores": {"head": {"kernel": of_scores[2], "bias": of_scores[3]}},
    }  # fmt: skip
    slopes["rule"]["scores"].pop("dense_0")
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-10)
    jax.tree.map(close, slopes["rule"], expected)
    for ours, theirs in zip(arrays(adapted) + arrays(slopes["params"]), fast + outer):
        close(ours, theirs)
    masks = np.concatenate([drawn.ravel(), *(m.ravel() for m in scores[2:])])
    assert info["sparsity"] == pytest.approx((masks < 0).mean()) and "sparsity/dense_0/bias" not in info
    assert info["mask_deviation"] == pytest.approx(np.abs(generator["deviation"]).mean())


def test_a_task_draws_its_masks_at_test_too_and_without_a_key_takes_the_mean():
    adapter = sparse_maml_plus(NET, LOSS, inner_lr=RATE, inner_steps=1, mask_dimension=4)
    meta, state = adapter.init(jax.random.key(0), jnp.zeros((1, 4)))
    generator = meta["rule"]["generator"]
    assert adapter.draws_at_test
    np.testing.assert_array_equal(generator["mean"], np.zeros(4))
    np.testing.assert_array_equal(generator["deviation"], np.ones(4))
    assert all(0.4 < np.abs(generator[name]).max() <= 0.5 for name in ("kernel", "bias"))
    assert meta["rule"]["scores"]["dense_0"] == {"kernel": None, "bias": None}
    support = draw_task(3).support
    run = jax.jit(lambda meta, key: adapter.adapt(meta, state, support, key, train=False)[0])
    fast = [
        run(meta, key).params["dense_0"]["kernel"]
        for key in (jax.random.key(1), jax.random.key(2), None, None)
    ]
    assert not np.array_equal(fast[0], fast[1]) and np.array_equal(fast[2], fast[3])
    still = meta["rule"] | {"generator": generator | {"deviation": jnp.zeros(4)}}
    settled = run(meta | {"rule": still}, jax.random.key(1))
    np.testing.assert_array_equal(settled.params["dense_0"]["kernel"], fast[2])
    assert adapter.learned(meta)["mask_deviation"] == 1.0
    assert adapter.with_norm("batch").draws_at_test


@pytest.mark.parametrize(
    ("closed", "adapted"), [((), None), (("dense_0",), ["head"]), (("head",), ["dense_0"])],
    ids=["fomaml", "anil", "boil"],
)  # fmt: skip
def test_masks_that_are_given(closed, adapted):
    """Open everywhere it is first-order MAML bit for bit, in the classifier alone ANIL, below it BOIL."""
    adapter = sparse_maml(NET, LOSS, inner_lr=RATE, inner_steps=STEPS)
    plain = jmeta.gradient_adapter(NET, LOSS, jmeta.sgd(RATE), STEPS, adapted=adapted, order="first")
    meta, state = random_meta(adapter)
    rule = {
        layer: jax.tree.map(lambda m, c=layer in closed: jnp.full_like(m, -1.0 if c else 1.0), part)
        for layer, part in meta["rule"].items()
    }
    task = draw_task(3)
    ours, theirs = (
        jax.jit(jax.value_and_grad(functools.partial(outer_loss, algorithm)))(
            meta | {"rule": learned}, state, task
        )
        for algorithm, learned in ((adapter, rule), (plain, ()))
    )
    assert ours[0] == theirs[0]
    jax.tree.map(np.testing.assert_array_equal, ours[1]["params"], theirs[1]["params"])
    assert all(np.abs(leaf).sum() > 0 for leaf in jax.tree.leaves(ours[1]["rule"]))


def test_at_first_all_of_them_take_the_same_step():
    """m = alpha, log alpha and 1: one step at the rate alpha."""
    task, results = draw_task(3), []
    for factory in (sparse_maml, sparse_relu_maml, exp_maml):
        adapter = factory(NET, LOSS, inner_lr=RATE, inner_steps=1)
        meta, state = adapter.init(jax.random.key(0), jnp.zeros((1, 4)))
        if factory is sparse_maml:
            meta |= {"rule": jax.tree.map(jnp.ones_like, meta["rule"])}
        run = jax.jit(functools.partial(adapter.adapt, train=False))
        fast, _, info = run(meta, state, task.support, None)
        results.append(fast.params)
        assert info.get("inner_rate", RATE) == pytest.approx(RATE) and info.get("sparsity", 0) == 0
    for other in results[1:]:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), results[0], other)


def test_on_a_quadratic_a_weight_thaws_if_both_optima_lie_on_the_same_side():
    """With |w - a|^2 / 2 inside and |w - b|^2 / 2 outside, the score has - alpha (w' - b) (w - a)."""
    start, inside, outside = (jnp.asarray(v) for v in ([1.0, 1.0, 1.0], [2.0, 2.0, 0.5], [3.0, -1.0, 0.0]))
    rule, scores = jmeta.masked_sgd(0.1), jnp.asarray([-1.0, 1.0, -1.0])

    def outer(scores):
        fast, _ = jmeta.inner_loop(
            lambda w, step: jnp.square(w - inside).sum() / 2, rule, scores, start, 1, order="first"
        )
        return jnp.square(fast - outside).sum() / 2, fast

    slopes, fast = jax.grad(outer, has_aux=True)(scores)
    np.testing.assert_allclose(fast, [1.0, 1.1, 1.0])
    np.testing.assert_allclose(slopes, -0.1 * (fast - outside) * (start - inside))
    assert np.sign(-slopes).tolist() == [1.0, -1.0, 1.0]


@pytest.mark.parametrize("shift", [0.0, 0.4, -0.4])
def test_masks_start_at_the_sparsity_that_the_shift_says(shift):
    """Half of the masks of Conv-4 are closed at first; uniform scores shifted by s close 1/2 - s."""
    for start in ("he_uniform", "uniform") if not shift else ("uniform",):
        model = jmeta.conv4(head=5)
        adapter = sparse_maml(model, LOSS, mask_start=start, mask_shift=shift)
        shapes, _ = jax.eval_shape(adapter.init, jax.random.key(0), jnp.zeros((1, 84, 84, 3)))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes["params"])
        rule = jmeta.masked_sgd(0.1, start=start, shift=shift)
        scores = rule.init(jax.random.key(0), zeros)
        assert jax.tree.map(np.shape, scores) == jax.tree.map(np.shape, shapes["rule"])
        told = adapter.learned({"rule": scores})
        assert sum(leaf.size for leaf in jax.tree.leaves(scores)) == 121_093
        assert abs(told["sparsity"] - (0.5 - shift)) < 0.02
        first, last = np.abs(scores["conv_0"]["kernel"]), np.abs(scores["head"]["kernel"])
        if start == "he_uniform":
            assert 0.45 < first.max() < 0.50 and 0.058 < last.max() < 0.064


def test_normalization_may_stay_out_of_it():
    """As for the paper's ResNet-12, whose adapted arrays are the kernels and the classifier."""
    adapter = sparse_maml(resnet12_boil(head=5), LOSS, adapt_norm=False)
    meta, _ = jax.eval_shape(adapter.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    masked = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(meta["rule"])
    }
    kernels = {f"conv_{block}_{layer}/kernel" for block in range(4) for layer in range(3)}
    assert masked == kernels | {f"shortcut_{b}/kernel" for b in range(4)} | {"head/kernel", "head/bias"}


def test_rates_may_start_as_meta_sgds():
    for factory, rates in ((sparse_relu_maml, lambda m: m), (exp_maml, np.exp)):
        adapter = factory(NET, LOSS, rate_start="uniform")
        meta, _ = adapter.init(jax.random.key(0), jnp.zeros((1, 4)))
        values = np.concatenate([rates(m).ravel() for m in arrays(meta["rule"])])
        assert 0.005 <= values.min() < 0.02 and 0.085 < values.max() < 0.1


@pytest.mark.parametrize(
    ("factory", "settings", "message"),
    [
        (sparse_maml, {"mask_start": "zeros"}, "start='zeros'; expected one of 'he_uniform', 'uniform'"),
        (sparse_relu_maml, {"rate_start": "he"}, "start='he'; expected one of 'constant', 'uniform'"),
        (sparse_maml_plus, {"mask_dimension": 0}, "mask_dimension=0; expected at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(factory, settings, message):
    with pytest.raises(ValueError, match=message):
        factory(NET, LOSS, **settings)


def test_networks_without_kernels_have_no_masks_to_draw():
    model = jmeta.from_pair(lambda key, x: {"w": jnp.ones((4, WAY))}, lambda params, x: x @ params["w"])
    with pytest.raises(ValueError, match="no array of the network is called kernel: w"):
        sparse_maml_plus(model, LOSS).init(jax.random.key(0), jnp.zeros((1, 4)))
