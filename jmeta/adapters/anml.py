"""ANML: a network gates the features of another, and with them what it may learn.

Beaulieu et al., Learning to Continually Learn, ECAI 2020; as a baseline of Babu et al., NeurIPS 2021,
section 4.3.

Deviations. Instance normalization makes the input normalization of the released code idle. For images below
16x16 the small form has three blocks: a fourth would normalize single pixels away. The 1,000-way protocol of
the original is not built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.adapters.fresh_output import fresh_output
from jmeta.adapters.heads.anil import gradient_head
from jmeta.adapters.on_features import on_features
from jmeta.inner.gradient import Order, Remat
from jmeta.losses import cross_entropy
from jmeta.models.conv_encoder import conv_encoder
from jmeta.models.init import kernel_initializer
from jmeta.types import Adapter, Array, BatchLoss, Key, Model, PyTree, Rule

Gated = tuple[Array, Array]  # images [example, height, width, channel] and their gates [example, feature]


def anml(
    outputs: int,
    rule: Rule,
    *,
    test_rule: Rule | None = None,
    loss: BatchLoss = cross_entropy,
    filters: int = 256,
    modulator_filters: int = 112,
    pooled: Sequence[bool] = (True, True, False),
    modulator_pooled: Sequence[bool] = (True, True, False),
    padded: bool = False,
    order: Order = "first",
    remat: Remat = "step",
) -> Adapter:
    """Learn one example at a time by a prediction network whose features a neuromodulatory network gates.

    The inner loop takes one step of `rule` on the whole prediction network for each example of the support
    stream, in its order; the neuromodulatory network, whose gates are computed for all examples at once, is
    fixed in it. The outer loop learns both. The output kernel is drawn anew in every task (`fresh_output`).

    Args:
      outputs: number of label slots.
      rule: the inner rule, `sgd(0.1)` in the paper's code.
      test_rule: inner rule at evaluation, `rule` if None.
      loss: `(outputs, Batch) -> scalar`, the inner loss of one example.
      filters, modulator_filters: channels of the prediction and of the neuromodulatory network; the defaults
        are the paper's, 6.05 million parameters with 28x28x3 images and 1,000 outputs.
      pooled, modulator_pooled: for each block of convolution, instance normalization and ReLU, whether 2x2
        max pooling follows; padded: whether convolutions see zeros outside the image.
      order, remat: see `jmeta.inner_loop`; in first order, the paper's, the neuromodulatory network learns
        through the prediction for the query set alone.

    Returns:
      An `Adapter` whose support is a `Stream` (or a `Batch` in the order of learning). At `init` images that
      leave no feature raise ValueError.
    """
    network: dict[str, Any] = {"padded": padded, "initialize": "he_normal"}
    trunk = conv_encoder(filters=filters, pooled=pooled, groups=filters, weights="per_task", **network)
    modulator = conv_encoder(
        filters=modulator_filters, pooled=modulator_pooled, groups=modulator_filters, **network
    )
    body, head = _gates(modulator, trunk), _gated(trunk, outputs)
    fitted = gradient_head(head, loss, rule, None, test_rule=test_rule, order=order, remat=remat)
    return on_features(body, fresh_output(fitted), outputs)


def _gates(modulator: Model, trunk: Model) -> Model:
    """Build the network that maps images to (images, gates), a gate in 0..1 for each feature of `trunk`."""

    def init(key: Key, x: Array) -> tuple[PyTree, PyTree]:
        key_network, key_output = jax.random.split(key)
        network, _ = modulator.init(key_network, x)
        output = _dense(key_output, _features(modulator, x), _features(trunk, x), x.dtype)
        return {"network": network, "output": output}, {}

    def apply(params: PyTree, state: PyTree, x: Array, **settings: Any) -> tuple[Gated, PyTree]:
        features, _ = modulator.apply(params["network"], {}, x, **settings)
        return (x, jax.nn.sigmoid(_linear(params["output"], features))), state

    return Model(init, apply)


def _gated(trunk: Model, outputs: int) -> Model:
    """Build the network that maps (images, gates) to logits [example, outputs]."""

    def init(key: Key, x: Gated) -> tuple[PyTree, PyTree]:
        key_trunk, key_head = jax.random.split(key)
        params, _ = trunk.init(key_trunk, x[0])
        return {"trunk": params, "head": _dense(key_head, x[1].shape[-1], outputs, x[0].dtype)}, {}

    def apply(params: PyTree, state: PyTree, x: Gated, **settings: Any) -> tuple[Array, PyTree]:
        features, _ = trunk.apply(params["trunk"], {}, x[0], **settings)
        return _linear(params["head"], features * x[1]), state

    return Model(init, apply)


def _features(network: Model, x: Array) -> int:
    """Count the features that `network` makes of one of the images `x`."""
    z = jax.eval_shape(lambda: network.apply(*network.init(jax.random.key(0), x), x, train=True)[0])
    return z.shape[-1]


def _dense(key: Key, inputs: int, outputs: int, dtype: jnp.dtype) -> PyTree:
    kernel = kernel_initializer("he_normal")(key, (inputs, outputs), dtype)
    return {"kernel": kernel, "bias": jnp.zeros(outputs, dtype)}


def _linear(params: PyTree, x: Array) -> Array:
    return x @ params["kernel"] + params["bias"][None]
