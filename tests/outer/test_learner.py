"""The learner against hand computation, and its execution plans against each other."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta.losses import mean_squared_error
from jmeta.outer.episode import predict
from jmeta.outer.evaluate import evaluate
from jmeta.outer.learner import learner
from jmeta.outer.seeds import seed_keys, vmap_seeds
from jmeta.outer.skip_nonfinite import skip_nonfinite
from jmeta.types import Adapter, Batch, Model, Stream, Task


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


def classify(**settings):
    """A learner of a 3-way linear classifier on 5 inputs that adapts by a step, and its state."""
    model = classifier()
    adapter = jmeta.gradient_adapter(model, jmeta.cross_entropy, jmeta.sgd(0.1), 1)
    toy = learner(adapter, jmeta.cross_entropy, optax.sgd(0.1), **settings)
    return toy, toy.init(jax.random.key(0), np.ones((4, 5)))


def batch_of_tasks(low=0, high=2, part="query", count=4):
    tasks = jax.tree.map(lambda leaf: np.stack([leaf] * count), labeled(0, 2))
    return tasks._replace(
        **{part: jax.tree.map(lambda leaf: np.stack([leaf] * count), labeled(low, high).query)}
    )


@pytest.mark.parametrize(("low", "high"), [(2, 6), (-1, 2), (0, 3)])
@pytest.mark.parametrize("part", ["support", "query"])
def test_labels_of_a_batch_of_tasks_are_checked(part, low, high):
    toy, state = classify()
    wrong = batch_of_tasks(low, high, part)
    words = f"{part} labels run from {low} to {high}.*3 ways; expected labels in 0..2"
    for run in (
        lambda: toy.step(state, wrong),
        lambda: toy.evaluate(state, jax.tree.map(jnp.asarray, wrong)),
        lambda: evaluate(toy, state, wrong, num_tasks=2, key=jax.random.key(0)),
        lambda: jax.jit(lambda state: toy.step(state, wrong))(state),
    ):
        with pytest.raises(ValueError, match=words):
            run()
    # Traced labels are not looked at, and a loss of jmeta is NaN then.
    assert np.isnan(jax.jit(toy.step)(state, wrong)[1]["loss"]).all()


def test_labels_of_padding_and_targets_that_are_no_labels_are_left_alone():
    toy, state = classify()
    tasks = batch_of_tasks()
    mask = np.tile(np.array([1.0, 1, 1, 0]), (4, 1))
    padded = tasks.query._replace(y=np.where(mask > 0, tasks.query.y, -5), mask=mask)
    assert np.isfinite(toy.step(state, tasks._replace(query=padded))[1]["loss"]).all()
    counting = learner(
        classifier(way=1), lambda outputs, batch: (outputs[:, 0] - batch.y).mean(), optax.sgd(0.1)
    )
    counts = batch_of_tasks(0, 40)
    counts = counts._replace(support=counts.query)
    assert counting.step(counting.init(jax.random.key(0), np.ones((4, 5))), counts)[1]["loss"].shape == (4,)


def test_labels_of_streams_are_checked():
    memory = jmeta.lstm(way=3, hidden=4)
    toy = learner(memory, None, optax.sgd(0.1))
    y = np.array([[0, 1, 2, 2], [2, 1, 0, 0]])
    streams = Stream(np.ones((2, 4, 5)), y, np.concatenate([np.full((2, 1), -1), y[:, :-1]], 1))
    state = toy.init(jax.random.key(0), streams.x[0])
    with pytest.raises(ValueError, match="stream labels run from 1 to 3"):
        toy.step(state, streams._replace(y=y + 1))
    with pytest.raises(ValueError, match="stream feedback run from 0 to 3"):
        toy.evaluate(state, streams._replace(feedback=streams.feedback + 1))
    with pytest.raises(ValueError, match="stream labels run from 1 to 3"):
        toy.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], streams._replace(y=y + 1)))


@pytest.mark.parametrize("seeds", [None, 2])
def test_the_check_survives_wrappers(seeds):
    toy = skip_nonfinite(classify()[0])
    toy = vmap_seeds(toy) if seeds else toy
    state = toy.init(seed_keys(0, 2) if seeds else jax.random.key(0), np.ones((4, 5)))
    with pytest.raises(ValueError, match="labels run from 2 to 6"):
        evaluate(toy, state, batch_of_tasks(2, 6), num_tasks=2, key=jax.random.key(0))


def test_one_task_is_no_batch_of_tasks():
    toy, state = classify()
    with pytest.raises(ValueError, match=r"support.x \[4, 5\], support.y \[4\]; expected \[task, example"):
        toy.step(state, labeled(0, 2))
    ragged = batch_of_tasks()
    with pytest.raises(ValueError, match="expected \\[task, example"):
        toy.evaluate(state, ragged._replace(query=jax.tree.map(lambda leaf: leaf[:3], ragged.query)))
    # By shapes these may be tasks of one example each.
    model = Model(
        lambda key, x: (jnp.ones((x.shape[1], 1)), {}),
        lambda params, state, x, *, train, key=None, mask=None: (x.reshape(x.shape[0], 1) @ params, state),
    )
    toy = learner(model, mean_squared_error, optax.sgd(0.1))
    one = Task(Batch(np.ones((6, 1)), np.ones((6, 1))), Batch(np.ones((6, 1)), np.ones((6, 1))))
    state = toy.init(jax.random.key(0), one)
    for run in (toy.step, jax.jit(toy.step), toy.evaluate):
        with pytest.raises(
            ValueError, match=r"this is one task, support.x \[6, 1\].*without the axis \[task\]"
        ):
            run(state, one)
    toy.step(state, jax.tree.map(lambda leaf: leaf[None], one))


class Drawing:
    """A callable without a hash."""

    __hash__ = None

    def __call__(self, key):
        return draw(key)


def test_evaluation_takes_any_callable():
    toy = make()
    state = toy.init(jax.random.key(0), jnp.ones((4, 3)))
    run = functools.partial(evaluate, toy, state, num_tasks=4, key=jax.random.key(7))
    expected = run(jax.tree_util.Partial(draw))["loss"]
    for sampler in (
        draw, lambda key: draw(key), functools.partial(lambda key, shift: draw(key), shift=jnp.ones(2)),
        Drawing(), jax.tree_util.Partial(lambda steps, key: draw(key) if range(steps) else None, 3),
    ):  # fmt: skip
        np.testing.assert_array_equal(run(sampler)["loss"], expected)
    with pytest.raises(TypeError, match="the sampler is 3; expected key -> Task"):
        run(3)


def test_equal_numbers_of_two_types_are_two_samplers():
    toy = make()
    state = toy.init(jax.random.key(0), jnp.ones((4, 3)))
    seen = []

    def of_number(number, key):
        seen.append(type(number))
        return draw(key)

    for number in (1, 1.0):
        sampler = jax.tree_util.Partial(of_number, number)
        evaluate(toy, state, sampler, num_tasks=1, key=jax.random.key(0))
    assert seen == [int, float]


def test_a_weakly_typed_start_is_compiled_once():
    model = Model(
        lambda key, x: ({"w": jnp.zeros(x.shape[1]), "scale": 1.0}, {"count": 0}),
        lambda params, state, x, *, train, key=None, mask=None: (x @ params["w"] * params["scale"], state),
    )
    toy = learner(model, mean_squared_error, optax.adam(0.1))
    tasks = draw_tasks(1, 2)
    state, step = toy.init(jax.random.key(0), tasks.query.x[0]), jax.jit(toy.step)
    assert not any(getattr(leaf, "weak_type", False) for leaf in jax.tree.leaves(state))
    for _ in range(3):
        state, _ = step(state, tasks)
    assert step._cache_size() == 1


def reptile(objective, meta, state, task, key):
    loss, outcome = objective(meta, state, task, key)
    moved = jax.tree.map(jnp.subtract, meta["params"], outcome.fast.params)
    return (loss, outcome), {"params": moved, "rule": meta["rule"]}


def adapting_twice(objective, meta, state, task, key):
    loss, outcome = objective(meta, state, task, key)
    adapter = jmeta.gradient_adapter(LINE, mean_squared_error, jmeta.sgd(0.1), 8)
    fast, _, _ = adapter.adapt(meta, state, task.support, None, train=True)
    return (loss, outcome), {"params": meta["params"] - fast.params, "rule": meta["rule"]}


LINE = jmeta.from_pair(lambda key, x: jnp.ones(x.shape[1], x.dtype), lambda params, x: x @ params)


def test_reptile_adapts_once():
    """The outer update moves to the mean of the adapted weights, which are computed a single time."""
    adapter = jmeta.gradient_adapter(LINE, mean_squared_error, jmeta.sgd(0.1), 8)
    tasks, programs = draw_tasks(3, 4), []
    for task_grad in (reptile, adapting_twice):
        toy = learner(adapter, mean_squared_error, optax.sgd(0.5), task_grad=task_grad)
        state = toy.init(jax.random.key(0), tasks.support.x[0])
        programs.append(jax.jit(toy.step).lower(state, tasks).compile())
    after, measured = programs[0](state, tasks)
    w = np.ones((4, 3))
    for _ in range(8):
        error = np.einsum("tej,tj->te", tasks.support.x, w) - tasks.support.y
        w -= 0.1 * 2 / 4 * np.einsum("tej,te->tj", tasks.support.x, error)
    np.testing.assert_allclose(after.meta["params"], 1 + 0.5 * (w.mean(0) - 1), rtol=1e-10)
    assert measured["loss"].shape == (4,)
    loops = [program.as_text().count(" while(") for program in programs]
    flops = [program.cost_analysis()["flops"] for program in programs]
    assert loops == [1, 2] and flops[0] < 0.8 * flops[1]


def test_task_grad_sees_the_last_carry_of_a_memory():
    memory, seen = jmeta.lstm(way=3, hidden=4), []

    def task_grad(objective, meta, state, stream, key):
        value, grads = jax.value_and_grad(objective, has_aux=True)(meta, state, stream, key)
        seen.append(value[1].fast)
        return value, grads

    toy = learner(memory, None, optax.sgd(0.1), task_grad=task_grad)
    streams = Stream(jnp.ones((2, 4, 5)), jnp.zeros((2, 4), int), jnp.zeros((2, 4), int))
    toy.step(toy.init(jax.random.key(0), streams.x[0]), streams)
    assert jax.tree.map(jnp.shape, seen[0]) == jax.tree.map(jnp.shape, jax.eval_shape(
        lambda: memory.carry(*_prepared(memory, streams))))  # fmt: skip


def _prepared(memory, streams):
    params, state = memory.init(jax.random.key(0), streams.x[0])
    inputs, _ = memory.prepare(
        params, state, streams.x[0], streams.feedback[0], train=False, key=None, mask=None
    )
    return params, inputs
