"""The contract of everything registered, in the manner of optax's common test: one line an algorithm.

A line is a spec without its name. Each algorithm is built from it, initialized, adapted and asked, under jit
and vmap; padding changes nothing; gradients are finite; noise is drawn in training alone, unless it draws at
test. Inputs are vectors of 6, or images of 6x6 for networks that take nothing else.
"""

import functools
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import registry
from jmeta.outer.episode import adapt_and_predict
from jmeta.types import Batch, Context, Stream, Task

WAY, SHOT, QUERY = 3, 2, 4
BODY = {"name": "mlp", "widths": [8]}
NET = BODY | {"outputs": WAY}
LAST = {"name": "mlp", "widths": [], "outputs": WAY}
LOSS = {"name": "cross_entropy"}
SGD = {"name": "sgd", "rate": 0.1}

HEADS = {
    "anil": {"model": LAST, "loss": LOSS, "inner_steps": 2},
    "comln": {"way": WAY, "solver": "euler", "step_size": 0.5},
    "protonet": {"way": WAY},
    "r2d2": {"way": WAY},
}
ADAPTERS = {
    **{name: {"on_features": head} for name, head in HEADS.items()},
    "gradient": {"model": NET, "loss": LOSS, "rule": SGD, "inner_steps": 2},
    "maml": {"model": NET, "loss": LOSS, "inner_steps": 2},
    "fomaml": {"model": NET, "loss": LOSS, "inner_steps": 2},
    **dict.fromkeys(("sparse_maml", "sparse_maml_plus", "sparse_relu_maml", "exp_maml"),
                    {"model": NET, "loss": LOSS, "inner_steps": 2}),
    **{name: {"model": NET, "loss": LOSS, "inner_steps": 2}
       for name in ("boil", "meta_sgd", "maml_pp", "meta_curvature", "t_net", "mt_net", "shrinkage",
                    "shrinkage_imaml", "shrinkage_reptile")},
    **{name: {"model": NET, "loss": LOSS, "inner_steps": 2, "adapt_batch": 4, "test_inner_steps": 3}
       for name in ("reptile", "leap")},
    "metacog": {"model": NET, "loss": LOSS, "inner_lr": 0.1, "inner_steps": 2, "masked": ["dense_0"]},
    "plain": {"model": NET},
    "scratch": {"model": NET, "loss": LOSS, "inner_steps": 8, "inner_lr": 0.1},
    "finetune": {"body": BODY, "loss": LOSS, "classes": 5, "way": WAY, "inner_steps": 4},
    "baseline_pp": {"body": BODY, "loss": LOSS, "classes": 5, "way": WAY, "inner_steps": 4},
    "from_memory": {"memory": {"name": "lstm", "way": WAY, "hidden": 8}},
    "oml": {"outputs": WAY, "rule": SGD, "filters": 2, "strides": [2], "hidden": 8},
    "anml": {"outputs": WAY, "rule": SGD, "filters": 2, "modulator_filters": 2, "pooled": [True],
             "modulator_pooled": [True]},
    "standardize_inputs": {"adapter": {"name": "plain", "model": NET}, "mean": 0.5, "std": 2.0},
}  # fmt: skip
MEMORIES = {
    "cl_lstm": {"way": WAY, "filters": 4, "hidden": 8},
    "lstm": {"way": WAY, "hidden": 8},
    "cnn_lstm": {"way": WAY, "hidden": 8, "encoder": BODY},
    "cnn_f_lstm": {"way": WAY, "hidden": 8, "encoder": BODY},
    "ntm": {"way": WAY, "hidden": 8},
    "apl": {"way": WAY, "encoder": BODY},
    "opn": {"way": WAY, "encoder": BODY},
    "cpm": {"way": WAY, "hidden": 8, "encoder": BODY},
}
WHOLE = {"name": "maml", "model": NET, "loss": LOSS, "inner_steps": 1}
STILL = WHOLE | {"inner_steps": 0}
ONLINE = {
    **dict.fromkeys(("sgd", "er", "mer", "la_maml", "la_maml_sync", "replay_maml", "sparse_la_maml"),
                    {"model": NET}),
    **dict.fromkeys(("gem", "agem"), {"model": NET, "tasks": 2}),
    "online_adam": {"adapter": STILL, "tx": {"name": "adam", "learning_rate": 0.01}},
    "frozen": {"adapter": WHOLE},
    "bgd": {"adapter": STILL, "samples": 2},
    "meta_bgd": {"adapter": WHOLE, "samples": 2},
    "c_maml": {"adapter": WHOLE, "tx": {"name": "adam", "learning_rate": 0.01}, "threshold": 1.0,
               "modulation": 1.0},
}  # fmt: skip
RULES = {
    "sgd": {"rate": 0.1, "learn": "leaf"},
    "adam": {"rate": 0.1},
    "masked_sgd": {"rate": 0.1},
    "rectified_sgd": {"rate": 0.1},
    "exponential_sgd": {"rate": 0.1},
    "turtle": {"hidden_layers": 1, "hidden_units": 4},
    "meta_lstm": {"hidden_units": 4},
    "meta_curvature": {"rate": 0.1},
    "subspace_sgd": {"rate": 0.1},
    "proximal_sgd": {"rate": 0.1},
    "clip_gradients": {"rule": SGD, "limit": 0.5},
}
MODELS = {
    "conv4": {"filters": 4, "head": WAY},
    "conv_encoder": {"filters": 4, "head": WAY, "groups": None},
    "residual_encoder": {"filters": 8},
    "resnet12": {"head": WAY},
    "resnet12_boil": {"widths": [4, 4, 4, 4], "head": WAY},
    "mlp": {"widths": [8], "outputs": WAY},
    "identity": {},
    **{name: {"widths": [4, 4, 4], "head": WAY} for name in ("resnet20", "cl_resnet20")},
    **{name: {"widths": [4] * 8, "head": WAY} for name in ("vgg11", "cl_vgg11")},
}
BETA = {"learning_rate": 0.1, "deviation": 0.01, "samples": 2}
INNER = {"inner_lr": 0.1, "inner_steps": 1, "order": "first"}
PHASES = {"threshold": 1.0, "modulation": 1.0, "prolonged": True, "restart": "code"}
OSAKA = {
    "online_adam": {"learning_rate": 0.1},
    "finetuning": {"learning_rate": 0.1},
    "maml": {"learning_rate": 0.1, **INNER},
    "anil": {"learning_rate": 0.1, **INNER},
    "bgd": BETA,
    "metacog": BETA | INNER | {"mask_initial": 0.5, "mask_penalty": 0.1},
    "metabgd": BETA | INNER,
    "c_maml": {"learning_rate": 0.1, "learn_rates": True, **INNER, **PHASES},
    **{name: {"learning_rate": 0.1, "mask_learning_rate": 0.1, **INNER, **PHASES}
       for name in ("sparse_c_maml", "sparse_relu_c_maml")},
}  # fmt: skip
# Values of settings that a factory forwards to another one.
FORWARDED = {"glances": 1, "capacity": 5, "replay": 2, "clip_norm": 1.0, "meta_loss": "last",
             "initial_rate": 0.1, "rate_learning_rate": 0.1, "inputs": ["gradient"], "decay": 0.5,
             "preprocess": True, "learn_rates": False}  # fmt: skip
LINES = {"adapter": ADAPTERS, "memory": MEMORIES, "online": ONLINE, "rule": RULES, "model": MODELS,
         "head": HEADS, "osaka": OSAKA}  # fmt: skip
# Nothing is meta-learned, and Adam has no derivative at a gradient of zero.
NOT_LEARNED = ("scratch",)
ON_IMAGES = ("oml", "anml", "standardize_inputs")
STREAMS = ("from_memory", "oml", "anml")


def spec_of(kind, name):
    line = LINES[kind][name]
    if "on_features" in line:
        head = {"name": name, **line["on_features"]}
        return {"name": "on_features", "body": BODY, "head": head, "way": WAY}
    return {"name": name, **line}


def draw_batch(key, count, shape):
    y = jnp.arange(WAY * count, dtype=jnp.int32) % WAY
    return Batch(jax.random.normal(key, (y.size, *shape), jnp.float32) + y.reshape(-1, *[1] * len(shape)), y)


def draw_task(name):
    keys = jax.random.split(jax.random.key(0))
    support, query = (draw_batch(key, count, (6, 6, 1) if name in ON_IMAGES else (6,))
                      for key, count in zip(keys, (SHOT, QUERY)))  # fmt: skip
    if name in STREAMS:
        feedback = jnp.concatenate([jnp.array([-1], jnp.int32), support.y[:-1]])
        support = Stream(support.x, support.y, feedback)
    return Task(support, query)


def pad(batch, rows=2):
    """The batch with rows of mask 0, whose content must not matter."""
    real = batch.y.shape[0]
    mask = jnp.concatenate([jnp.ones(real), jnp.zeros(rows)]).astype(jnp.float32)
    longer = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.full((rows, *leaf.shape[1:]), 2, leaf.dtype)]), batch
    )
    return longer._replace(mask=mask)


@pytest.mark.parametrize("kind", registry.REGISTRY)
def test_every_registered_name_has_its_line(kind):
    names = set(registry.REGISTRY[kind]) - ({"on_features"} if kind == "adapter" else set())
    if kind in LINES:
        assert names == set(LINES[kind]) - (set(HEADS) if kind == "adapter" else set())


@pytest.mark.parametrize("kind, name", [(k, n) for k, names in registry.REGISTRY.items() for n in names])
def test_settings_are_keywords_of_the_factory(kind, name):
    """An entry names no setting twice, none that its factory does not have, and none that is fixed."""
    entry = registry.entry(kind, name)
    keywords = inspect.signature(registry.factory(kind, name)).parameters
    forwards = any(word.kind is inspect.Parameter.VAR_KEYWORD for word in keywords.values())
    assert len(set(entry.settings)) == len(entry.settings) and not set(entry.settings) & set(entry.fixed)
    if not forwards:
        assert set(entry.settings) <= set(keywords)
        return
    for setting in set(entry.settings) - set(keywords):  # which it forwards
        objects = {"loss": jmeta.cross_entropy} if kind == "online" else {}
        registry.build(spec_of(kind, name) | {setting: FORWARDED[setting]}, kind, **objects)


@pytest.mark.parametrize("kind, name", [(kind, name) for kind in LINES for name in LINES[kind]])
def test_a_spec_is_json_and_builds_the_same_twice(kind, name):
    spec = spec_of(kind, name)
    assert json.loads(json.dumps(spec)) == spec
    objects = {"loss": jmeta.cross_entropy} if kind == "online" else {}
    spec |= {"way": WAY, "filters": 2} if kind == "osaka" else {}
    kind = "adapter" if spec.get("name") == "on_features" else kind
    first, second = (
        registry.build(written, kind, **objects) for written in (spec, json.loads(json.dumps(spec)))
    )
    shapes = [_initial_shapes(built, kind, name) for built in (first, second)]
    assert shapes[0] == shapes[1]


def _initial_shapes(built, kind, name):
    """The shapes of the parameters, and of all else that `init` makes."""
    key, x = jax.random.key(0), jnp.zeros((2, 6))
    if kind == "osaka":
        built, x = built.online, jnp.zeros((WAY, 28, 28, 1))
    if kind == "memory":
        x = jnp.zeros((2, 8, 8, 1) if name == "cl_lstm" else (2, 6))
    if kind == "model" and name not in ("mlp", "identity"):
        x = jnp.zeros((2, 32, 32, 3))
    if name in ON_IMAGES:
        x = jnp.zeros((2, 6, 6, 1))
    x = {"w": jnp.zeros((2, 3))} if kind == "rule" else x
    return jax.tree.map(jnp.shape, jax.eval_shape(built.init, key, x))


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(name):
    adapter = registry.build(spec_of("adapter", name))
    task = draw_task(name)
    meta, state = jax.jit(adapter.init)(jax.random.key(1), task.support.x)
    run = functools.partial(adapt_and_predict, adapter)
    outer = {} if name in HEADS else registry.entry("adapter", name).outer
    of_steps = {"name": outer["loss"], "loss": LOSS} if "loss" in outer else LOSS
    outer_loss = registry.build(of_steps, "loss")

    @jax.jit
    def evaluate(meta, task, key):
        """Adapt and predict as at test, but with noise keys at hand."""
        keys = jax.random.split(key, 4)
        support, query = task
        z, after = adapter.encode(meta, state, support.x, train=False, key=keys[0], mask=support.mask)
        fast, after, _ = adapter.adapt(meta, after, support._replace(x=z), keys[1], train=False)
        z, after = adapter.encode(meta, after, query.x, train=False, key=keys[2], mask=query.mask)
        return adapter.predict(meta, fast, after, z, keys[3], train=False, mask=query.mask)[0]

    @jax.jit
    def train(meta, tasks, keys):
        def loss(meta, task, key):
            outputs, _, info = run(meta, state, task.support, task.query.x, key, train=True)
            last = outputs.outputs[-1] if "metrics" in outer else outputs
            return outer_loss(outputs, task.query), (last, info)

        return jax.vmap(jax.value_and_grad(loss, has_aux=True), (None, 0, 0))(meta, tasks, keys)

    keys = jax.random.split(jax.random.key(2))
    outputs = evaluate(meta, task, keys[0])
    assert outputs.shape == (WAY * QUERY, WAY) and np.isfinite(outputs).all()
    same = np.array_equal(outputs, evaluate(meta, task, keys[1]))
    assert same != adapter.draws_at_test
    (losses, (trained, info)), grads = train(meta, jax.tree.map(lambda a: jnp.stack([a, a]), task), keys)
    assert losses.shape == (2,) and trained.shape[:2] == (2, WAY * QUERY)
    assert all(np.ndim(value) == 1 for value in info.values())
    if name not in NOT_LEARNED:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    padded = evaluate(meta, Task(*map(pad, task)), keys[0])
    np.testing.assert_allclose(padded[: WAY * QUERY], outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MEMORIES)
def test_memories(name):
    memory = registry.build(spec_of("memory", name), "memory")
    size = (8, 8, 1) if name == "cl_lstm" else (6,)
    x = jax.random.normal(jax.random.key(0), (2, 5, *size), jnp.float32)  # [stream, time, ...]
    y = jnp.tile(jnp.array([0, 1, 0, 2, 1], jnp.int32), (2, 1))
    feedback = jnp.concatenate([jnp.full((2, 1), -1, jnp.int32), y[:, :-1]], 1)
    streams = Stream(x, y, feedback)
    params, state = jax.jit(memory.init)(jax.random.key(1), x[0])

    @jax.jit
    def losses_and_gradients(params, streams):
        def loss(params, stream):
            return memory.loss(jmeta.unroll(memory, params, state, stream).outputs, stream)

        return jax.vmap(jax.value_and_grad(loss), (None, 0))(params, streams)

    losses, grads = losses_and_gradients(params, streams)
    assert losses.shape == (2,) and np.isfinite(losses).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    # No label reaches an output before it arrives.
    other = Stream(x[0], y[0], feedback[0].at[4].set(2))
    one, two = (
        jax.jit(lambda s: jmeta.unroll(memory, params, state, s, train=False).outputs)(stream)
        for stream in (jax.tree.map(lambda leaf: leaf[0], streams), other)
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        np.testing.assert_array_equal(a[:4], b[:4])


@pytest.mark.parametrize("name", ONLINE)
def test_online_learners(name):
    learner = registry.build(spec_of("online", name), "online", loss=jmeta.cross_entropy)
    batch = draw_batch(jax.random.key(0), 1, (6,))
    state = jax.jit(learner.init)(jax.random.key(1), batch.x)
    observe = jax.jit(lambda state, key: learner.observe(state, batch, key))
    after, info = observe(state, jax.random.key(2))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert "loss" in info and all(np.ndim(value) == 0 for value in info.values())
    context = Context(task=jnp.zeros((), jnp.int32), first_pass=jnp.ones((), bool))
    informed, _ = jax.jit(lambda s: learner.observe(s, batch, jax.random.key(2), context=context))(state)
    jax.tree.map(np.testing.assert_array_equal, _numbers(informed), _numbers(after))
    outputs = jax.jit(learner.predict)(after, batch.x)
    assert outputs.shape == (WAY, WAY) and np.isfinite(outputs).all()


@pytest.mark.parametrize("name", OSAKA)
def test_osaka_methods(name):
    method = registry.build(spec_of("osaka", name), "osaka", way=WAY, filters=2)
    batch = Batch(jnp.zeros((WAY, 28, 28, 1)), jnp.arange(WAY, dtype=jnp.int32))
    state = jax.eval_shape(method.online.init, jax.random.key(0), batch.x)
    after, info = jax.eval_shape(method.online.observe, state, batch, jax.random.key(1))
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert {"loss", "accuracy"} <= set(info)
    assert (method.pretraining is None) == (method.tx is None)


@pytest.mark.parametrize("name", RULES)
def test_rules(name):
    rule = registry.build(spec_of("rule", name), "rule")
    params = {"w": jnp.ones((2, 3), jnp.float32), "b": jnp.zeros(3, jnp.float32)}
    hyper = rule.init(jax.random.key(0), params)

    @jax.jit
    def adapted(hyper, params):
        def loss(params, step):
            return ((params["w"].sum(0) + params["b"] - jnp.arange(3.0, dtype=jnp.float32)) ** 2).sum()

        fast, _ = jmeta.inner_loop(loss, rule, hyper, params, 2, order="first")
        return loss(fast, 0), fast

    (value, fast), grads = jax.value_and_grad(adapted, argnums=(0, 1), has_aux=True)(hyper, params)
    assert jax.tree.map(jnp.shape, fast) == jax.tree.map(jnp.shape, params) and np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    model = registry.build(spec_of("model", name), "model")
    size = {"mlp": (6,), "identity": (6,)}.get(name, (32, 32, 3))
    x = jax.ShapeDtypeStruct((2, *size), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    for train in (True, False):
        apply = functools.partial(model.apply, train=train)
        outputs, new_state = jax.eval_shape(apply, params, state, x)
        assert outputs.shape[0] == 2 and outputs.ndim == 2
        assert jax.tree.map(lambda a: a.shape, new_state) == jax.tree.map(lambda a: a.shape, state)
    if name not in ("identity", "residual_encoder"):
        assert outputs.shape == (2, WAY)


def _numbers(tree):
    """The leaves of a tree with keys as numbers, to compare."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]
