import jax
import jax.numpy as jnp
import numpy as np
import pytest
from observing import build_online

from jmeta.data.streams import mnist
from jmeta.online.sgd_state import OnlineState
from jmeta.online.stream import (
    accuracy_matrix,
    continual_metrics,
    initial_state,
    observe_stream,
    observe_task,
)

PIXELS, TASKS = 6, 2  # as many pixels as the network of conftest has inputs


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (100, PIXELS), np.uint8)
    y = random.integers(0, 3, 100).astype(np.int32)
    images = mnist.Images(*map(jnp.asarray, (x[:30], y[:30], x[30:], y[30:])))
    maps = mnist.permutations(jax.random.key(0), tasks=TASKS, pixels=PIXELS)
    return images, mnist.task_stream(jax.random.key(1), maps, 30, samples=8, batch=4, passes=2)


@pytest.fixture(scope="module")
def observed(model, problem):
    learner = build_online("er", model, learning_rate=0.3, capacity=5, replay=2)
    state = initial_state(learner, *problem, jax.random.key(2))
    whole = jax.jit(lambda state: observe_stream(learner, *problem, state, jax.random.key(3)))(state)
    return learner, state, whole


def test_the_whole_stream_is_its_tasks_one_after_another(problem, observed):
    """The same stream taken apart at every pass over a task, as a run with checkpoints does."""
    learner, state, (last, snapshots, info) = observed
    advance = jax.jit(
        lambda state, task, steps: observe_task(
            learner, *problem, state, task, jax.random.key(3), steps=steps
        )
    )
    for task in range(TASKS):
        for steps in jnp.arange(4).reshape(2, 2):
            state, report = advance(state, jnp.int32(task), steps)
            np.testing.assert_allclose(report["loss"], info["loss"][task, steps], rtol=1e-12)
        for name, leaf in state.params.items():
            np.testing.assert_allclose(snapshots.params[name][task], leaf, rtol=1e-12)
    assert info["loss"].shape == (TASKS, 4) and snapshots.memory == ()
    assert int(last.memory.seen) == int(state.memory.seen) == 16  # of the first passes
    np.testing.assert_array_equal(last.memory.y, state.memory.y)


def test_the_accuracy_matrix_is_every_state_on_every_task(problem, model):
    images, stream = problem
    learner = build_online("sgd", model)
    random = np.random.default_rng(4)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, PIXELS)))[0]
    params = {name: jnp.asarray(random.normal(size=(TASKS, *leaf.shape))) for name, leaf in shapes.items()}
    snapshots = OnlineState(params, (), ())
    matrix = jax.jit(lambda snapshots: accuracy_matrix(learner, snapshots, images, stream, chunk=35))(
        snapshots
    )
    for after in range(TASKS):
        params = {name: leaf[after] for name, leaf in snapshots.params.items()}
        for on in range(TASKS):
            x = np.asarray(images.test_x)[:, np.asarray(stream.maps[on])].astype(np.float32) / 255
            outputs = learner.predict(OnlineState(params, (), ()), jnp.asarray(x))
            expected = (np.asarray(outputs).argmax(1) == np.asarray(images.test_y)).mean()
            np.testing.assert_allclose(matrix[after, on], expected)
    assert len(set(np.asarray(matrix).ravel().tolist())) > 2
    ends = jax.jit(
        lambda snapshots: accuracy_matrix(learner, snapshots, images, stream, chunk=35, part="ends")
    )(snapshots)
    wanted = np.eye(TASKS, dtype=bool)
    wanted[-1] = True
    np.testing.assert_array_equal(ends, np.where(wanted, matrix, np.nan))


def test_continual_metrics_by_hand():
    metrics = continual_metrics(np.array([[90.0, 10, 10], [70, 80, 12], [60, 50, 70]]))
    np.testing.assert_allclose(metrics["retained_accuracy"], 60)
    np.testing.assert_allclose(metrics["backward_transfer_and_interference"], (-30 - 30 + 0) / 3)
    np.testing.assert_allclose(metrics["learning_accuracy"], 80)


@pytest.mark.parametrize("name", ["gem", "agem"])
def test_more_tasks_than_a_memory_has_slots_for(problem, model, name):
    """Refused where stream and learner meet; NaN if only the traced number of a task says so."""
    learner = build_online(name, model, tasks=1)
    with pytest.raises(ValueError, match="task is 1; expected 0..0, a memory of tasks=1"):
        initial_state(learner, *problem, jax.random.key(2))
    images, stream = problem
    first = stream._replace(rows=stream.rows[:1], maps=stream.maps[:1])
    state = initial_state(learner, images, first, jax.random.key(2))
    observe = jax.jit(lambda task: observe_task(learner, images, stream, state, task, jax.random.key(3)))
    (inside, info), (beyond, lost) = observe(0), observe(1)
    assert np.isfinite(info["loss"]).all() and np.isnan(lost["loss"]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(inside.params))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(beyond.params))


def test_sizes_that_do_not_fit(problem, model, observed):
    images, stream = problem
    learner, state, (_, snapshots, _) = observed
    many = mnist.task_stream(jax.random.key(1), stream.maps, 4000, samples=8, batch=4)
    with pytest.raises(ValueError, match="expected 0..29, there are 30 training images; draw .* examples=30"):
        initial_state(learner, images, many, jax.random.key(2))
    with pytest.raises(ValueError, match="observe_task: task is 2; expected 0..1"):
        observe_task(learner, images, stream, state, 2, jax.random.key(3))
    with pytest.raises(ValueError, match="observe_task: steps run from 0 to 4; expected 0..3"):
        observe_task(learner, images, stream, state, 0, jax.random.key(3), steps=jnp.arange(5))
    with pytest.raises(ValueError, match=r"snapshots of \[1\] tasks for a stream of 2"):
        accuracy_matrix(learner, jax.tree.map(lambda leaf: leaf[:1], snapshots), images, stream)
    with pytest.raises(ValueError, match="last is 2; expected 0..1"):
        accuracy_matrix(learner, snapshots, images, stream, last=2)
    unknown = images._replace(test_y=images.test_y.at[0].set(3))
    matrix = jax.jit(lambda images: accuracy_matrix(learner, snapshots, images, stream))(unknown)
    assert np.isnan(matrix).all()
