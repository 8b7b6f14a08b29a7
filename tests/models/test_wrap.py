"""Any network as a Model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jmeta.models.wrap import from_linen, from_nnx, from_pair

X = jnp.linspace(-1.0, 1.0, 24, dtype=jnp.float32).reshape(6, 4)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, deterministic, mask=None):
        x = nn.Dense(5)(x)
        where = None if mask is None else mask.astype(bool)[:, None]
        x = nn.BatchNorm(use_running_average=not train, momentum=0.8)(x, mask=where)
        return nn.Dropout(0.5, deterministic=deterministic)(x)


def test_linen_splits_parameters_from_state():
    model = from_linen(Net())
    params, state = model.init(jax.random.key(0), X)
    assert set(state) == {"batch_stats"}
    assert set(params) == {"Dense_0", "BatchNorm_0"}
    outputs, same = model.apply(params, state, X, train=False)
    assert outputs.shape == (6, 5)
    assert same is state


def test_linen_updates_statistics_only_in_training_and_skips_masked_examples():
    model = from_linen(Net())
    params, state = model.init(jax.random.key(0), X)
    mask = jnp.array([1, 1, 1, 1, 0, 0])
    outputs, updated = model.apply(params, state, X, train=True, mask=mask)
    short, expected = model.apply(params, state, X[:4], train=True)
    np.testing.assert_allclose(outputs[:4], short, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updated, expected)
    unmasked = model.apply(params, state, X, train=True)[1]
    assert not np.allclose(unmasked["batch_stats"]["BatchNorm_0"]["mean"], jax.tree.leaves(updated)[0])


def test_linen_draws_noise_only_with_a_key():
    model = from_linen(Net())
    params, state = model.init(jax.random.key(0), X)
    quiet = model.apply(params, state, X, train=True)[0]
    noisy = model.apply(params, state, X, train=True, key=jax.random.key(1))[0]
    assert not (quiet == 0).any()
    assert (noisy == 0).any()
    np.testing.assert_array_equal(noisy, model.apply(params, state, X, train=True, key=jax.random.key(1))[0])


@pytest.mark.parametrize("mode", ["train", "training", "is_training", "use_running_average"])
def test_linen_modes_have_several_names(mode):
    class Named(nn.Module):
        def normalize(self, x, average):
            return nn.BatchNorm(use_running_average=average, momentum=0.8, name="norm")(x)

    calls = {
        "train": lambda self, x, train: self.normalize(x, not train),
        "training": lambda self, x, training=False: self.normalize(x, not training),
        "is_training": lambda self, x, *, is_training: self.normalize(x, not is_training),
        "use_running_average": lambda self, x, use_running_average: self.normalize(x, use_running_average),
    }
    model = from_linen(type("Named", (Named,), {"__call__": nn.compact(calls[mode])})())
    params, state = model.init(jax.random.key(0), X)
    (trained, updated), (evaluated, same) = (model.apply(params, state, X, train=on) for on in (True, False))
    np.testing.assert_allclose(trained.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(evaluated, X, rtol=1e-4)
    assert same is state and not np.allclose(updated["batch_stats"]["norm"]["mean"], 0)


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(5)(x))


def test_dropout_that_follows_the_mode_is_off_without_a_key():
    model = from_linen(Dropping())
    params, state = model.init(jax.random.key(0), X)
    quiet, _ = model.apply(params, state, X, train=True)
    np.testing.assert_array_equal(quiet, model.apply(params, state, X, train=False)[0])
    noisy, _ = model.apply(params, state, X, train=True, key=jax.random.key(1))
    assert (noisy == 0).any() and not (quiet == 0).any()


class Fixed(nn.Module):
    part: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.part(x)


class OnlyDeterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        return nn.BatchNorm(use_running_average=deterministic)(x)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            Fixed(nn.BatchNorm(use_running_average=True)),
            "Fixed has batch statistics, but its __call__.*`train`",
        ),
        (Fixed(nn.Dropout(0.5, deterministic=True)), "Fixed has dropout, but"),
        (Fixed(nn.Dropout(0.5, deterministic=False)), "Fixed has dropout, but"),
        (nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=False)]), "Sequential has batch stat"),
        (OnlyDeterministic(), "OnlyDeterministic has batch statistics"),
    ],
)
def test_linen_modules_whose_mode_cannot_be_found(module, words):
    with pytest.raises(ValueError, match=words):
        from_linen(module).init(jax.random.key(0), X)


def test_linen_without_options_gets_none():
    model = from_linen(nn.Dense(3))
    params, state = model.init(jax.random.key(0), X)
    outputs, state = model.apply(params, state, X, train=True, key=jax.random.key(0), mask=jnp.ones(6))
    assert outputs.shape == (6, 3)
    assert state == {}


def test_pair_receives_the_options_it_names():
    seen = {}

    def apply(params, x, *, train):
        seen["train"] = train
        return x @ params

    model = from_pair(lambda key, x: jnp.ones((x.shape[-1], 2), x.dtype), apply)
    params, state = model.init(jax.random.key(0), X)
    outputs, state = model.apply(params, state, X, train=True, mask=jnp.ones(6))
    np.testing.assert_allclose(outputs, X @ jnp.ones((4, 2), jnp.float32))
    assert seen == {"train": True}


def _nnx():
    try:
        from flax import nnx
    except Exception as error:
        pytest.skip(f"flax.nnx does not import here: {error!r}")
    return nnx


def _nnx_model(nnx):
    class Module(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(4, 5, rngs=rngs)
            self.norm = nnx.BatchNorm(5, momentum=0.8, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x, mask=None):
            where = None if mask is None else mask.astype(bool)[:, None]
            return self.dropout(self.norm(self.dense(x), mask=where))

    return from_nnx(lambda rngs: Module(rngs))


def test_nnx_parameters_and_state_are_plain_dicts():
    model = _nnx_model(_nnx())
    params, state = model.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, state) == {"norm": {"mean": (5,), "var": (5,)}}
    assert jax.tree.map(jnp.shape, params)["dense"] == {"kernel": (4, 5), "bias": (5,)}
    other = model.init(jax.random.key(1), X)[0]
    assert not np.allclose(params["dense"]["kernel"], other["dense"]["kernel"])


def test_nnx_inside_a_scan_of_gradients():
    model = _nnx_model(_nnx())
    params, state = model.init(jax.random.key(0), X)

    def loss(params, scale):
        def step(params, _):
            slope = jax.grad(lambda p: jnp.square(model.apply(p, state, scale * X, train=True)[0] - 1).sum())
            return jax.tree.map(lambda p, g: p - 0.01 * g, params, slope(params)), None

        adapted, _ = jax.lax.scan(step, params, None, length=2)
        return jnp.square(model.apply(adapted, state, X, train=True)[0] - 1).sum()

    value, slope = jax.jit(jax.value_and_grad(loss))(params, jnp.float32(1))
    assert value < loss(params, jnp.float32(0))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_nnx_modes_noise_and_masks():
    model = _nnx_model(_nnx())
    params, state = model.init(jax.random.key(0), X)
    evaluated, same = model.apply(params, state, X, train=False)
    assert same is state
    mask = jnp.array([1, 1, 1, 1, 0, 0])
    trained, updated = model.apply(params, state, X, train=True, mask=mask)
    short, expected = model.apply(params, state, X[:4], train=True)
    np.testing.assert_allclose(trained[:4], short, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updated, expected)
    assert not np.allclose(trained, evaluated)
    noisy = model.apply(params, state, X, train=True, key=jax.random.key(1))[0]
    again = model.apply(params, state, X, train=True, key=jax.random.key(2))[0]
    assert (noisy == 0).any()
    assert not np.array_equal(noisy, again)
