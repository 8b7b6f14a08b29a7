"""The learner against hand computation, and its execution plans against each other."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta.losses import mean_squared_error
from jmeta.outer.episode import predict
from jmeta.outer.evaluate import evaluate
from jmeta.outer.learner import learner
from jmeta.outer.seeds import seed_keys, vmap_seeds
from jmeta.types import Adapter, Batch, Model, Task


def ridge_step_adapter() -> Adapter:
    """One gradient step on a linear model, with a learned rate and a counter as model state."""

    def init(key, x):
        meta = {"w": jax.random.normal(key, (x.shape[1],), x.dtype), "rate": jnp.full((), 0.1, x.dtype)}
        return meta, {"mean": jnp.zeros((), x.dtype), "count": jnp.zeros((), jnp.int32)}

    def adapt(meta, state, support, key, *, train):
        error = support.x @ meta["w"] - support.y
        fast = meta["w"] - meta["rate"] * support.x.T @ error / error.shape[0]
        if train:
            state = {"mean": 0.5 * state["mean"] + 0.5 * support.y.mean(), "count": state["count"] + 1}
        return fast, state, {"error": jnp.abs(error).mean()}

    def predict(meta, fast, state, x, key, *, train, mask):
        return x @ fast, state

    return Adapter(init=init, adapt=adapt, predict=predict)


def draw(key):
    keys = jax.random.split(key, 3)
    w = jax.random.normal(keys[0], (3,), jnp.float64)
    x = jax.random.normal(keys[1], (10, 3), jnp.float64)
    y = x @ w
    return Task(Batch(x[:4], y[:4]), Batch(x[4:], y[4:]))


def draw_tasks(seed, count):
    return jax.vmap(draw)(jax.random.split(jax.random.key(seed), count))


def by_hand(meta, tasks):
    """The mean query loss of the tasks, one by one."""
    total = 0.0
    for i in range(tasks.query.y.shape[0]):
        support, query = jax.tree.map(lambda a, i=i: a[i], tasks)
        step = support.x.T @ (support.x @ meta["w"] - support.y) / support.y.shape[0]
        total += jnp.square(query.x @ (meta["w"] - meta["rate"] * step) - query.y).mean()
    return total / tasks.query.y.shape[0]


def make(**settings):
    return learner(ridge_step_adapter(), mean_squared_error, optax.sgd(0.1), **settings)


def test_a_step_is_sgd_on_the_mean_task_loss():
    toy, tasks = make(), draw_tasks(1, 5)
    state = toy.init(jax.random.key(0), tasks.support.x[0])
    after, metrics = jax.jit(toy.step)(state, tasks)
    loss, grads = jax.value_and_grad(by_hand)(state.meta, tasks)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.meta, grads)
    chex.assert_trees_all_close(after.meta, expected, rtol=1e-10)
    np.testing.assert_allclose(metrics["loss"].mean(), loss, rtol=1e-10)
    assert metrics["loss"].shape == metrics["error"].shape == (5,)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(grads), rtol=1e-10)
    assert int(after.step) == 1


def test_model_state_is_averaged_over_tasks_and_counters_keep_their_type():
    toy, tasks = make(), draw_tasks(1, 4)
    state = toy.init(jax.random.key(0), tasks.support.x[0])
    after, _ = toy.step(state, tasks)
    np.testing.assert_allclose(after.model_state["mean"], 0.5 * tasks.support.y.mean(), rtol=1e-12)
    assert after.model_state["count"].dtype == jnp.int32 and int(after.model_state["count"]) == 1


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_chunks_that_do_and_do_not_divide_give_the_same_numbers(chunk, reduce):
    tasks = draw_tasks(2, 5)
    whole, parts = make(reduce=reduce), make(reduce=reduce, chunk=chunk)
    state = whole.init(jax.random.key(0), tasks.support.x[0])
    after, measured = whole.step(state, tasks)
    chunked, measured_in_chunks = parts.step(state, tasks)
    chex.assert_trees_all_close(measured, measured_in_chunks, rtol=1e-10)
    chex.assert_trees_all_close(after._replace(key=0), chunked._replace(key=0), rtol=1e-10)
    chex.assert_trees_all_close(whole.evaluate(state, tasks), parts.evaluate(state, tasks), rtol=1e-12)


def test_sum_is_the_mean_times_the_number_of_tasks():
    tasks = draw_tasks(2, 5)
    mean, total = make(), make(reduce="sum")
    state = mean.init(jax.random.key(0), tasks.support.x[0])
    (one, _), (five, _) = mean.step(state, tasks), total.step(state, tasks)
    moved = jax.tree.map(lambda after, before: after - before, one.meta, state.meta)
    expected = jax.tree.map(lambda before, m: before + 5 * m, state.meta, moved)
    chex.assert_trees_all_close(five.meta, expected, rtol=1e-6)
    chex.assert_trees_all_close(five.model_state, one.model_state)


def test_task_grad_changes_each_gradient_before_the_mean():
    def clipped(objective, meta, state, task, key):
        value, grads = jax.value_and_grad(objective, has_aux=True)(meta, state, task, key)
        return value, jax.tree.map(lambda g: jnp.clip(g, -0.05, 0.05), grads)

    tasks = draw_tasks(3, 4)
    toy = make(task_grad=clipped)
    state = toy.init(jax.random.key(0), tasks.support.x[0])
    after, _ = toy.step(state, tasks)

    def one(i):
        task = jax.tree.map(lambda a: a[i : i + 1], tasks)
        return jax.tree.map(lambda g: jnp.clip(g, -0.05, 0.05), jax.grad(by_hand)(state.meta, task))

    mean = jax.tree.map(lambda *g: sum(g) / 4, *[one(i) for i in range(4)])
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.meta, mean)
    chex.assert_trees_all_close(after.meta, expected, rtol=1e-6)


def test_a_plain_model_is_trained_on_the_query_sets():
    model = Model(
        init=lambda key, x: (jnp.zeros(x.shape[1], x.dtype), {}),
        apply=lambda params, state, x, *, train, key=None, mask=None: (x @ params, state),
    )
    tasks = draw_tasks(4, 3)
    toy = learner(model, mean_squared_error, optax.sgd(0.1))
    state = toy.init(jax.random.key(0), tasks.query.x[0])
    after, _ = toy.step(state, tasks)
    gradient = -2 * jnp.mean(jnp.einsum("teq,te->teq", tasks.query.x, tasks.query.y), axis=(0, 1))
    np.testing.assert_allclose(after.meta, -0.1 * gradient, rtol=1e-6)


def test_evaluation_depends_on_the_key_and_the_task_alone():
    toy = make()
    state = toy.init(jax.random.key(0), jnp.ones((4, 3)))
    run = functools.partial(evaluate, toy, state, jax.tree_util.Partial(draw), key=jax.random.key(7))
    whole, parts = run(num_tasks=10, batch=10), run(num_tasks=10, batch=4)
    assert whole["loss"].shape == (10,)
    np.testing.assert_array_equal(whole["loss"][:3], run(num_tasks=3)["loss"][:3])
    np.testing.assert_allclose(whole["loss"], parts["loss"], rtol=1e-12)
    assert len(set(whole["loss"])) == 10
    with pytest.raises(ValueError, match="num_tasks=0"):
        run(num_tasks=0)


def test_evaluation_on_a_batch_of_tasks():
    toy = make()
    state = toy.init(jax.random.key(0), jnp.ones((4, 3)))
    tasks = draw_tasks(3, 7)
    run = functools.partial(evaluate, toy, state, tasks, key=jax.random.key(7), batch=4)
    np.testing.assert_allclose(run(num_tasks=7)["loss"], toy.evaluate(state, tasks)["loss"], rtol=1e-12)
    np.testing.assert_array_equal(run(num_tasks=2)["loss"], run(num_tasks=7)["loss"][:2])
    with pytest.raises(ValueError, match="num_tasks=8; there are 7"):
        run(num_tasks=8)


@pytest.mark.parametrize("seeds", [None, 2])
def test_noise_at_evaluation_depends_on_the_task_alone(seeds):
    """The same task again and again, so that only the noise differs."""
    plain = ridge_step_adapter()

    def adapt(meta, state, support, key, *, train):
        fast, state, info = plain.adapt(meta, state, support, key, train=train)
        return fast + jax.random.normal(key, fast.shape), state, info

    toy = learner(
        plain._replace(adapt=adapt, draws_at_test=True), mean_squared_error, optax.sgd(0.1), chunk=2
    )
    if seeds:
        toy = vmap_seeds(toy)
    key = seed_keys(0, seeds) if seeds else jax.random.key(0)
    state = toy.init(key, jnp.ones((4, 3)))
    same = jax.tree_util.Partial(lambda key: draw(jax.random.key(1)))
    run = functools.partial(evaluate, toy, state, same, num_tasks=10, key=jax.random.key(7))
    whole, parts = run(batch=10)["loss"], run(batch=4)["loss"]
    np.testing.assert_allclose(whole, parts, rtol=1e-12)
    assert len(set(whole.ravel())) == whole.size == 10 * (seeds or 1)


@pytest.mark.parametrize("draws_at_test", [False, True])
def test_an_adapter_has_a_key_at_test_only_if_it_draws_there(draws_at_test):
    plain = ridge_step_adapter()

    def adapt(meta, state, support, key, *, train):
        fast, state, info = plain.adapt(meta, state, support, key, train=train)
        return fast, state, info | {"has_key": jnp.float64(key is not None)}

    toy = learner(
        plain._replace(adapt=adapt, draws_at_test=draws_at_test), mean_squared_error, optax.sgd(0.1)
    )
    tasks = draw_tasks(1, 2)
    state = toy.init(jax.random.key(0), tasks.support.x[0])
    assert toy.step(state, tasks)[1]["has_key"].tolist() == [1, 1]
    assert toy.evaluate(state, tasks)["has_key"].tolist() == [draws_at_test] * 2


def test_predict_adapts_to_the_support_set():
    adapter, task = ridge_step_adapter(), draw(jax.random.key(3))
    state = make().init(jax.random.key(0), task.support.x)
    error = task.support.x @ state.meta["w"] - task.support.y
    w = state.meta["w"] - state.meta["rate"] * task.support.x.T @ error / 4
    outputs = predict(adapter, state, task.support, task.query.x)
    np.testing.assert_allclose(outputs, task.query.x @ w, rtol=1e-10)


def classifier(way=3, outputs=None, state_after=None):
    """A linear classifier that never adapts."""

    def apply(params, state, x, *, train, key=None, mask=None):
        return x @ params, state if state_after is None else state_after

    return Model(lambda key, x: (jnp.ones((x.shape[1], way)), {"s": jnp.zeros(2)}), apply)


def labeled(low, high, rows=4, targets=4):
    batch = Batch(np.ones((rows, 5)), np.array([low, high] * (targets // 2)))
    return Task(batch, batch)


def cross_entropy(outputs, batch):
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch.y[:, None], 1).mean()


@pytest.mark.parametrize(
    ("model", "task", "loss", "message"),
    [
        (classifier(), labeled(0, 3), cross_entropy, r"labels run from 0 to 3.*3 ways"),
        (classifier(), labeled(-1, 2), cross_entropy, r"labels run from -1 to 2"),
        (classifier(), labeled(0, 2, rows=4, targets=6), cross_entropy, r"one row per example"),
        (classifier(), labeled(0, 2), lambda o, b: o, r"the loss is float64\[4, 3\]"),
        (classifier(), labeled(0, 2), lambda o, b: o @ b.x, r"the loss or the metrics fail"),
        (classifier(state_after={}), labeled(0, 2), cross_entropy, r"model state's structure changes"),
        (classifier(state_after={"s": jnp.zeros(3)}), labeled(0, 2), cross_entropy, r"\['s'\] changes"),
    ],
)
def test_a_misfit_is_one_sentence_at_init(model, task, loss, message):
    with pytest.raises(ValueError, match=message) as caught:
        learner(model, loss, optax.sgd(0.1)).init(jax.random.key(0), task)
    assert "\n" not in str(caught.value)


def test_the_initial_state_may_be_computed_inside_jit():
    """With a task that is a constant of the program, whose labels are still checked."""
    toy = learner(classifier(), cross_entropy, optax.sgd(0.1))
    task, wrong = (jax.tree.map(jnp.asarray, labeled(0, high)) for high in (2, 3))
    state = jax.jit(lambda: toy.init(jax.random.key(0), task))()
    np.testing.assert_array_equal(state.meta, np.ones((5, 3)))
    with pytest.raises(ValueError, match="labels run from 0 to 3"):
        jax.jit(lambda: toy.init(jax.random.key(0), wrong))()


def test_bad_settings_raise():
    with pytest.raises(TypeError, match="expected an Adapter, a Memory or a Model"):
        learner(lambda x: x, mean_squared_error, optax.sgd(0.1))
    with pytest.raises(ValueError, match="reduce='median'"):
        make(reduce="median")
    with pytest.raises(ValueError, match="chunk=0"):
        make(chunk=0)
