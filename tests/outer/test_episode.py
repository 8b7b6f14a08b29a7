"""A trained adapter on one's own support set: adapt, predict, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta.types import Adapter, Batch, LearnerState, Model

X = np.random.default_rng(0).normal(size=(10, 4))
SUPPORT = Batch(X[:6], np.arange(6) % 3)


def network() -> Model:
    """A linear classifier behind batch normalization, with running averages of its own."""

    def apply(params, state, x, *, train, key=None, mask=None):
        mean, var = (x.mean(0), x.var(0)) if train else (state["mean"], state["var"])
        z = (x - jnp.broadcast_to(mean, x.shape)) / jnp.broadcast_to(jnp.sqrt(var + 1e-3), x.shape)
        new = {"mean": 0.9 * state["mean"] + 0.1 * mean, "var": 0.9 * state["var"] + 0.1 * var}
        return z @ params["w"], new if train else state

    def init(key, x):
        state = {"mean": jnp.zeros(x.shape[1], x.dtype), "var": jnp.ones(x.shape[1], x.dtype)}
        return {"w": jax.random.normal(key, (x.shape[1], 3), x.dtype)}, state

    return Model(init, apply)


def trained(norm="batch", **options) -> tuple[Adapter, LearnerState]:
    adapter = jmeta.gradient_adapter(network(), jmeta.cross_entropy, jmeta.sgd(0.1), 2, norm=norm, **options)
    learner = jmeta.learner(adapter, jmeta.cross_entropy, optax.sgd(0.1))
    return adapter, learner.init(jax.random.key(0), X)


def test_adapting_once_and_predicting_in_two_steps():
    adapter, state = trained()
    fast = jmeta.adapt(adapter, state, SUPPORT)
    expected, _, _ = adapter.adapt(state.meta, state.model_state, SUPPORT, None, train=False)
    np.testing.assert_allclose(fast.params["w"], expected.params["w"], rtol=1e-12)
    at_once = jmeta.predict(adapter, state, SUPPORT, X[6:])
    np.testing.assert_allclose(jmeta.predict(adapter, state, fast, X[6:]), at_once, rtol=1e-12)


def test_a_policy_that_does_not_depend_on_the_company_of_a_query():
    adapter, state = trained()
    alone = [jmeta.predict(adapter, state, SUPPORT, X[i : i + 1], norm="support") for i in (6, 7, 8, 9)]
    together = jmeta.predict(adapter, state, SUPPORT, X[6:], norm="support")
    np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-10)
    built = trained("support")[0]
    np.testing.assert_array_equal(together, jmeta.predict(built, state, SUPPORT, X[6:]))
    one = jmeta.predict(adapter, state, SUPPORT, X[6:7])
    assert np.abs(one - jmeta.predict(adapter, state, SUPPORT, X[6:])[:1]).max() > 0.1


def test_the_policy_of_a_run_with_statistics_for_each_step():
    per_step, state = trained("per_step")
    assert jax.tree.leaves(state.model_state)[0].shape == (2, 4)
    last = state._replace(model_state=jax.tree.map(lambda leaf: leaf[-1], state.model_state))
    for norm in ("batch", "support"):
        expected = jmeta.predict(trained(norm)[0], last, SUPPORT, X)
        np.testing.assert_allclose(
            jmeta.predict(per_step, state, SUPPORT, X, norm=norm), expected, rtol=1e-10
        )


def test_policies_that_a_run_cannot_have():
    adapter, state = trained()
    for norm, words in (("running", "trained under norm='batch'"), ("per_step", "keeps no averages"),
                        ("batc", "choose one of batch")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            jmeta.predict(adapter, state, SUPPORT, X, norm=norm)
    bare = adapter._replace(with_norm=None)
    with pytest.raises(ValueError, match="has no policy"):
        jmeta.adapt(bare, state, SUPPORT, norm="batch")


def test_standardized_inputs_keep_the_choice_of_a_policy():
    adapter, state = trained()
    scaled = jmeta.standardize_inputs(adapter, 0.5, 2.0)
    expected = jmeta.predict(
        adapter, state, SUPPORT._replace(x=(X[:6] - 0.5) / 2), (X - 0.5) / 2, norm="support"
    )
    got = jmeta.predict(scaled, state, SUPPORT, X, norm="support")
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_labels_are_checked_and_absent_ways_masked():
    adapter, state = trained()
    for function in (jmeta.adapt, lambda *arguments: jmeta.predict(*arguments, X)):
        with pytest.raises(
            ValueError, match=r"support labels run from 1 to 3.*3 ways; expected labels in 0..2"
        ):
            function(adapter, state, SUPPORT._replace(y=SUPPORT.y + 1))
        with pytest.raises(ValueError, match="run from -1"):
            function(adapter, state, SUPPORT._replace(y=SUPPORT.y - 1))
    outputs = jmeta.predict(adapter, state, SUPPORT._replace(y=SUPPORT.y % 2), X)
    assert (outputs[:, 2] < -1e8).all() and np.isfinite(outputs).all() and (outputs[:, :2] > -1e8).all()
    padded = SUPPORT._replace(y=np.array([0, 1, 2, 0, 1, -7]), mask=np.array([1, 1, 1, 1, 1, 0.0]))
    assert np.isfinite(jmeta.predict(adapter, state, padded, X)).all()
    # Under jit the labels are not known.
    assert jax.jit(lambda s: jmeta.predict(adapter, state, s, X))(SUPPORT).shape == (10, 3)


@pytest.mark.parametrize(
    ("x", "support", "words"),
    [
        (X[:, :3], SUPPORT, r"an example of x is \(3,\), one of the support set \(4,\)"),
        (X[0], SUPPORT, r"an example of x is \(\)"),
        (X[:, :3], SUPPORT._replace(x=X[:6, :3]), r"cannot run inputs of float64\[6, 3\]; expected"),
    ],
)
def test_inputs_that_do_not_fit(x, support, words):
    adapter, state = trained()
    with pytest.raises(ValueError, match=words) as caught:
        jmeta.predict(adapter, state, support, x)
    assert "\n" not in str(caught.value)


def test_what_is_no_adapter_no_state_or_several():
    adapter, state = trained()
    for wrong, states, words in ((network(), state, "got a Model; expected an Adapter"),
                                 (adapter, state.meta, "the state is a dict"),
                                 (jmeta.lstm(way=3, hidden=4), state, "jmeta.from_memory")):  # fmt: skip
        with pytest.raises(TypeError, match=words):
            jmeta.predict(wrong, states, SUPPORT, X)
    several = state._replace(key=jax.random.split(state.key, 3))
    with pytest.raises(ValueError, match="3 seeds side by side"):
        jmeta.predict(adapter, several, SUPPORT, X)
    echo = adapter._replace(
        adapt=lambda meta, state, support, key, *, train: (support, state, {}),
        predict=lambda meta, fast, state, x, key, *, train, mask: (x @ meta["params"]["w"], state),
    )
    with pytest.raises(ValueError, match="would take for a support set"):
        jmeta.adapt(echo, state, SUPPORT)


def test_noise_at_test_comes_from_the_key():
    plain, state = trained()

    def adapt(meta, state, support, key, *, train):
        fast, state, info = plain.adapt(meta, state, support, key, train=train)
        noise = jax.random.normal(key, fast.params["w"].shape)
        return fast._replace(params={"w": fast.params["w"] + noise}), state, info

    noisy = plain._replace(adapt=adapt, draws_at_test=True)
    one, again, other = (
        jmeta.adapt(noisy, state, SUPPORT, key=key).params["w"]
        for key in (jax.random.key(1), jax.random.key(1), jax.random.key(2))
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
