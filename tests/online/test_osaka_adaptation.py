"""OSAKA's inner step by hand: its rate, and that scales and offsets of normalization stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta.models.conv4 import conv4
from jmeta.online import osaka_methods
from jmeta.registry import build
from jmeta.types import Batch

WAY, RATES = 3, {"finetuning": 0.05, "maml": 0.3, "c_maml": 0.3}


def scaled_linear(way, filters):
    """Logits x W scaled by a normalization's scale."""

    def init(key, x):
        kernel = jax.random.normal(key, (x.shape[1], way), x.dtype)
        return {"head": {"kernel": kernel}, "norm_0": {"scale": jnp.linspace(0.5, 1.5, way, dtype=x.dtype)}}

    return jmeta.from_pair(init, lambda p, x: x @ p["head"]["kernel"] * p["norm_0"]["scale"][None])


@pytest.mark.parametrize("name", RATES)
def test_one_inner_step_moves_all_but_normalization(name, monkeypatch):
    """Outputs after w - rate gradient of the mean cross-entropy, with the scales as they were."""
    monkeypatch.setattr(osaka_methods, "_network", scaled_linear)
    values = {"learning_rate": 1.0} | ({} if name == "finetuning" else {"inner_lr": 0.3, "inner_steps": 1})
    method = build({"name": name, "way": WAY, "filters": 1, **values}, "osaka")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 4)), np.arange(6) % WAY
    batch, query = Batch(jnp.asarray(x), jnp.asarray(y, jnp.int32)), random.normal(size=(2, 4))
    adapter = method.pretraining
    meta, _ = adapter.init(jax.random.key(0), batch.x)
    fast = adapter.adapt(meta, {}, batch, None, train=True)[0]
    outputs = adapter.predict(meta, fast, {}, jnp.asarray(query), None, train=True, mask=None)[0]

    kernel, scale = (np.asarray(meta["params"][layer][leaf]) for layer, leaf in
                     (("head", "kernel"), ("norm_0", "scale")))  # fmt: skip
    logits = x @ kernel * scale
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = x.T @ ((p - np.eye(WAY)[y]) * scale) / len(y)
    expected = query @ (kernel - RATES[name] * gradient) * scale
    np.testing.assert_allclose(outputs, expected, rtol=1e-9)


def test_the_parts_of_conv4_that_do_not_adapt_are_its_normalizations():
    x = jax.ShapeDtypeStruct((2, 16, 16, 1), jnp.float32)
    params, _ = jax.eval_shape(lambda x: conv4(filters=2, head=WAY).init(jax.random.key(0), x), x)
    still = {name for name in params if not osaka_methods._adapts(f"{name}/leaf")}
    assert still == {f"norm_{layer}" for layer in range(4)}
    assert len(params) == 4 + 4 + 1
