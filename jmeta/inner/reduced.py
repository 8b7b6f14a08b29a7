"""The gradient flow of a linear classifier in the space of its examples.

With features X [shot, feature] the gradient of the mean cross-entropy is a sum of one outer product an
example, so the weights never leave W(t) = W0 - s(t)^T X and all that moves is s [shot, way]:
ds/dt = (softmax(Z0 - G s) - Y) / M - ridge s, with G = X X^T and Z0 = X W0^T (paper 003, section 4.1 and
App. B.1). Nothing of the features' size is needed along the trajectory.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.losses import ABSENT
from jmeta.types import Array


class Reduced(NamedTuple):
    """The flow's ingredients: `gram` [shot, shot], `logits` [shot, way] of the initial classifier, `target`
    [shot, way] the labels over the number of examples, `mass` [shot] their row sums, `ridge` []."""

    gram: Array
    logits: Array
    target: Array
    mass: Array
    ridge: Array


def reduce(
    w0: Array,
    features: Array,
    labels: Array,
    ridge: Array,
    mask: Array | None,
    way_mask: Array | None,
) -> Reduced:
    """The reduced flow of classifier `w0` [way, feature] on `features` [shot, feature] and `labels`
    [shot, way]; padded examples (`mask` [shot]) get no mass, absent ways (`way_mask` [way]) no probability."""
    shot = features.shape[0]
    weight = jnp.ones(shot, features.dtype) if mask is None else mask.astype(features.dtype)
    target = labels * (weight / jnp.maximum(weight.sum(), 1))[:, None]
    logits = features @ w0.T
    if way_mask is not None:
        target = jnp.where(way_mask[None, :], target, 0)
        logits = jnp.where(way_mask[None, :], logits, jnp.asarray(ABSENT, logits.dtype))
    return Reduced(features @ features.T, logits, target, target.sum(-1), ridge)


def velocity(flow: Reduced, s: Array) -> Array:
    """ds/dt at `s` [shot, way]."""
    p = jax.nn.softmax(flow.logits - flow.gram @ s)
    return flow.mass[:, None] * p - flow.target - flow.ridge * s
