"""Transfer baselines: pre-training on all classes, training on a support set, the cosine head."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta.adapters.heads.fine_tuned import Schedule, train_on
from jmeta.adapters.transfer import from_scratch, pretrained
from jmeta.data.batches import supervised_batches
from jmeta.models.heads import cosine_head
from jmeta.outer.episode import adapt_and_predict
from jmeta.types import Batch


def _blobs(classes, count, seed):
    """Points [total, 6] around a center for each class, as a ClassDataset."""
    rng = np.random.default_rng(seed)
    centers = 3 * rng.standard_normal((classes, 1, 6))
    x = centers + 0.5 * rng.standard_normal((classes, count, 6))
    return jmeta.from_arrays(x.reshape(-1, 6).astype(np.float32), np.repeat(np.arange(classes), count))


def test_the_cosine_head_by_hand():
    head = cosine_head(3)
    z = jax.random.normal(jax.random.key(0), (4, 5), jnp.float32)
    params, _ = head.init(jax.random.key(1), z)
    v = np.asarray(params["kernel"])
    np.testing.assert_allclose(params["scale"], np.linalg.norm(v, axis=0), rtol=1e-6)
    moved = {"kernel": params["kernel"] * 7, "scale": jnp.array([1.0, 2.0, 3.0], jnp.float32)}
    unit = np.asarray(z) / np.linalg.norm(z, axis=1, keepdims=True)
    expected = 2 * unit @ (v / np.linalg.norm(v, axis=0)) * np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(head.apply(moved, {}, 100 * z, train=True)[0], expected, rtol=1e-4, atol=1e-5)


def test_training_on_a_support_set_is_adam_and_keeps_the_best_check():
    """One example, so that every drawn batch is known; and a rate at which later evaluations are worse."""
    x, y = jnp.array([[1.0, 2.0]], jnp.float32), jnp.array([1])
    support = Batch(x, y)
    outputs_of = lambda w, x, mask: x @ w  # noqa: E731
    start = jnp.zeros((2, 3), jnp.float32)
    loss = jmeta.cross_entropy
    found = train_on(outputs_of, loss, start, support, jax.random.key(0), Schedule(steps=8, evaluations=2))
    tx, w = optax.adam(1e-3), start
    opt = tx.init(w)
    for _ in range(4):  # the first check is right already, and the second no better
        grads = jax.grad(lambda w: loss(outputs_of(w, x, None), support))(w)
        updates, opt = tx.update(grads, opt, w)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(found, w, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_every_step_is_taken(steps):
    """A support accuracy that is first right after the last step, so that the last check is what is kept."""
    support = Batch(jnp.ones((1, 1)), jnp.array([1]))
    outputs_of = lambda w, x, mask: x * (w - 0.1 * (steps - 0.5)) * jnp.arange(2)[None]  # noqa: E731
    found = train_on(
        outputs_of, lambda outputs, batch: -outputs.sum(), jnp.zeros((1, 1)), support, jax.random.key(0),
        Schedule(steps=steps, learning_rate=0.1, batch=1, evaluations=4),
    )  # fmt: skip
    np.testing.assert_allclose(found, 0.1 * steps, rtol=1e-6)  # Adam's step on a constant gradient


@pytest.mark.parametrize("name", ["steps", "batch", "evaluations"])
def test_a_schedule_of_nothing(name):
    schedule = Schedule()._replace(**{name: 0})
    with pytest.raises(ValueError, match=f"from_scratch: {name}=0; expected at least 1"):
        from_scratch(jmeta.mlp(outputs=2), jmeta.cross_entropy, schedule=schedule)
    with pytest.raises(ValueError, match=f"pretrained: {name}=0"):
        pretrained(jmeta.mlp(), cosine_head, 3, 2, jmeta.cross_entropy, schedule=schedule)


def test_padding_is_never_drawn():
    x = jnp.array([[1.0, 0.0], [0.0, 1.0], [jnp.nan, jnp.nan]], jnp.float32)
    support = Batch(x, jnp.array([0, 1, 0]), jnp.array([1.0, 1.0, 0.0], jnp.float32))
    found = train_on(
        lambda w, x, mask: jnp.nan_to_num(x @ w, nan=0.0), jmeta.cross_entropy,
        jnp.zeros((2, 2), jnp.float32), support, jax.random.key(0), Schedule(steps=20, batch=2),
    )  # fmt: skip
    assert np.isfinite(found).all() and found[0, 0] > found[0, 1]


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_pretraining_learns_classes_and_its_features_adapt(head):
    data = _blobs(12, 20, 0)
    make = cosine_head if head == "cosine" else lambda n: jmeta.mlp(widths=(), outputs=n)
    body = jmeta.mlp(widths=(16,))
    adapter = pretrained(body, make, 12, 4, jmeta.cross_entropy, schedule=Schedule(learning_rate=0.05))
    made = jmeta.learner(adapter, jmeta.cross_entropy, optax.adam(0.01), metrics=jmeta.accuracy)
    train = supervised_batches(data, size=32)
    task = train(jax.random.key(0))
    assert task.query.x.shape == (32, 6) and task.query.y.max() < 12
    state = made.init(jax.random.key(1), task)
    step = jax.jit(lambda state, key: made.step(state, jax.tree.map(lambda a: a[None], train(key))))
    before = None
    for key in jax.random.split(jax.random.key(2), 150):
        state, metrics = step(state, key)
        before = metrics["loss"] if before is None else before
    assert metrics["loss"] < 0.5 * before
    tests = jmeta.episodes(_blobs(9, 20, 1), way=4, shot=3, query=5)
    values = jmeta.evaluate(made, state, tests, num_tasks=20, key=jax.random.key(3))
    assert values["accuracy"].mean() > 0.8
    assert jax.tree.structure(state.meta["head"]) == jax.tree.structure(
        make(4).init(jax.random.key(0), jnp.zeros((1, 16)))[0]
    )


def test_from_scratch_trains_the_whole_network_on_the_support_set():
    sampler = jmeta.episodes(_blobs(9, 20, 1), way=4, shot=3, query=5)
    adapter = from_scratch(
        jmeta.mlp(widths=(16,), outputs=4), jmeta.cross_entropy, schedule=Schedule(learning_rate=0.02)
    )
    made = jmeta.learner(adapter, jmeta.cross_entropy, optax.sgd(0.0), metrics=jmeta.accuracy)
    state = made.init(jax.random.key(0), sampler(jax.random.key(0)))
    values = jmeta.evaluate(made, state, sampler, num_tasks=20, key=jax.random.key(3))
    assert values["accuracy"].mean() > 0.8


@pytest.mark.parametrize("name", ["scratch", "finetune", "metacog"])
def test_absent_ways_are_masked_and_padding_changes_nothing(name):
    """Way 2 has padding alone. Labels out of range leave nothing finite."""
    schedule = Schedule(steps=4, learning_rate=0.1)
    adapter = {
        "scratch": from_scratch(jmeta.mlp(widths=(4,), outputs=3), jmeta.cross_entropy, schedule=schedule),
        "finetune": pretrained(
            jmeta.mlp(widths=(4,)), cosine_head, 5, 3, jmeta.cross_entropy, schedule=schedule
        ),
        "metacog": jmeta.metacog(
            jmeta.mlp(widths=(4,), outputs=3), jmeta.cross_entropy, inner_lr=0.1, inner_steps=2,
            masked=["dense_0"], adapted=["head"],
        ),
    }[name]  # fmt: skip
    x = jax.random.normal(jax.random.key(0), (6, 4), jnp.float32)
    meta, state = adapter.init(jax.random.key(1), x)
    y = jnp.array([0, 1, 0, 1, 2, 2])

    @jax.jit
    def answer(support):
        return adapt_and_predict(adapter, meta, state, support, x, jax.random.key(2), train=False)[0]

    padded = Batch(x, y, jnp.array([1.0, 1, 1, 1, 0, 0]))
    outputs = answer(padded)
    assert (jax.nn.softmax(outputs)[:, 2] == 0).all() and np.isfinite(outputs).all()
    junk = Batch(x.at[4:].set(100), y.at[4:].set(7), padded.mask)
    np.testing.assert_array_equal(answer(junk), outputs)
    real = Batch(*jax.tree.map(lambda leaf: leaf[:4], (x, y, jnp.ones(6))))
    np.testing.assert_allclose(answer(real), outputs, rtol=1e-5)
    assert np.isnan(answer(Batch(x, y.at[5].set(3)))).all()
