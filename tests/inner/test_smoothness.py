"""The probe for rules without a finite derivative at a zero gradient."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jmeta
from jmeta.inner.smoothness import require_smooth

PARAMS = {"w": jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.asarray([0.25, -0.75])}


def test_the_probe_finds_what_has_no_derivative_at_zero():
    for tx in (
        optax.adam(1e-3),
        optax.adamw(1e-3),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1)),
    ):
        with pytest.raises(ValueError, match="no finite derivative at a zero gradient"):
            require_smooth(jmeta.from_optax(tx), (), PARAMS)
    for tx in (optax.adam(1e-3, eps_root=1e-8), optax.sgd(0.1, momentum=0.9, nesterov=True)):
        require_smooth(jmeta.from_optax(tx), (), PARAMS)


@pytest.mark.parametrize(
    ("tx", "words"),
    [
        (optax.adam(1e-3), "in scale_by_adam,.*of one coordinate.*eps_root=1e-8"),
        (optax.rmsprop(1e-3, eps_in_sqrt=False), r"in scale_by_rms,.*of one coordinate.*eps_in_sqrt=True"),
        (optax.adaptive_grad_clip(0.1), "in adaptive_grad_clip,.*of all coordinates.*by='norm'"),
        (optax.clip_by_global_norm(1.0), "in clip_by_global_norm,.*of all coordinates.*clip_gradients"),
        (optax.normalize_by_update_norm(), "in normalize_by_update_norm,.*of all coordinates"),
        (optax.multi_transform({"a": optax.adam(1.0), "s": optax.sgd(1.0)}, {"w": "s", "b": "a"}),
         "in scale_by_adam"),
    ],
)  # fmt: skip
def test_the_transformation_to_blame_is_named(tx, words, capfd):
    with pytest.raises(ValueError, match=words) as caught:
        require_smooth(jmeta.from_optax(optax.chain(tx, optax.sgd(0.1))), (), PARAMS)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("take order='first'")
    assert capfd.readouterr() == ("", "")


def root_descent(of_parameters):
    """A rule with the root of the parameters' size, or of the gradient's."""

    def update(hyper, grads, carry, params, *, loss, step):
        sizes = params if of_parameters else grads
        return jax.tree.map(lambda g, size: g * jnp.sqrt(jnp.abs(size)), grads, sizes), carry

    return jmeta.Rule(lambda key, params: (), lambda hyper, params, key: (), update)


def test_a_rule_of_ones_own_is_named():
    for of_parameters, words in (
        (False, "in root_descent, .* a zero gradient of one"),
        (True, "at zero parameters"),
    ):
        with pytest.raises(ValueError, match=words):
            require_smooth(root_descent(of_parameters), (), PARAMS)


def test_rules_with_a_safe_root_pass():
    for limit in (0.1, 100.0):
        require_smooth(jmeta.clip_gradients(jmeta.sgd(0.1), limit, by="norm"), (), PARAMS)
    for tx in (optax.rmsprop(1e-3), optax.lion(0.1), optax.adagrad(0.1)):
        require_smooth(jmeta.from_optax(tx), (), PARAMS)
