"""Prototypical networks: the nearest class mean (Snell et al., Prototypical Networks, NeurIPS 2017)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jmeta.bounds import labels_factor, spoil
from jmeta.types import Array, Batch, Head, Key, Metrics, PyTree


def protonet(way: int) -> Head:
    """Classify by minus the squared Euclidean distance to the mean feature of each way (eq. 1 and 2).

        c_k = mean of z_i over the support examples i of way k        logits_k(z) = -|z - c_k|^2

    The distance is summed over the features, and nothing is learned beside them.
    """

    def fit(
        meta: PyTree, support: Batch, key: Key | None, *, present: Array | None, train: bool
    ) -> tuple[Array, Metrics]:
        member = jax.nn.one_hot(support.y, way, dtype=support.x.dtype)  # [shot, way]
        member = member if support.mask is None else member * support.mask[:, None].astype(member.dtype)
        total = member.sum(0)[:, None]  # [way, 1]
        means = (member.T @ support.x) / jnp.where(total > 0, total, 1)  # [way, feature]
        return spoil(means, labels_factor("protonet", support.y, way, support.mask)), {}

    def predict(meta: PyTree, prototypes: Array, z: Array) -> Array:
        squares = (z * z).sum(1)[:, None] + (prototypes * prototypes).sum(1)[None]  # [example, way]
        return 2 * z @ prototypes.T - squares

    return Head(lambda key, z: {}, fit, predict)
