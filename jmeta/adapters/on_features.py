"""A head at work on the features of a shared network: COMLN, ANIL, ProtoNet and R2D2 are heads.

This is the only place that knows the normalization policy of the network below a head, padding and noise.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp

from jmeta.losses import mask_absent_ways, padded_ways
from jmeta.models.norm_policy import Norm, apply_with_norm, check_other_norm, support_state
from jmeta.types import Adapter, Array, Batch, Head, Key, Metrics, Model, PyTree


class Fitted(NamedTuple):
    """A head fitted to a task: its `fast` weights, the `present` ways [way] if episodes are padded (else
    None), and the support set's `statistics` under norm="support" (else None)."""

    fast: PyTree
    present: Array | None
    statistics: PyTree


def on_features(body: Model, head: Head, way: int | None = None, *, norm: Norm = "batch") -> Adapter:
    """Adapt a head to each task, on features of a body that all tasks share and that is applied once a task.

    The meta-parameters are {"body", "head"}; the model state is the body's.

    Args:
      body: network from inputs to features [example, feature], or whatever the head takes.
      head: what is fitted to the features of a support set.
      way: number of ways, for the masks of padded episodes; by default the size of the head's outputs.
      norm: the body's batch statistics, see `jmeta.models.norm_policy`: "batch", "support" or "running".
        Under "running" both passes of a training task update the averages.

    Returns:
      An `Adapter` whose `info` is the head's. If the support set has a mask and integer labels [example],
      the logits of ways without a real support example are masked. The body draws noise in training only.
      A head's meta-parameters have the type of the body's, though features may be narrower.

    Raises:
      ValueError: for a norm policy that a shared body does not have.
    """
    policies = [policy for policy in get_args(Norm) if policy != "per_step"]
    if norm not in policies:
        raise ValueError(f"on_features: norm={norm!r}; expected one of {', '.join(policies)} below a head")
    per_task = norm == "support"  # then features depend on the task, and `encode` leaves inputs alone

    def features(
        meta: PyTree, state: PyTree, x: PyTree, *, train: bool, key: Key | None, mask: Array | None
    ) -> tuple[PyTree, PyTree]:
        noise = key if train else None
        return apply_with_norm(body, norm, meta["body"], state, x, train=train, key=noise, mask=mask)

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        key_body, key_head = jax.random.split(key)
        params, state = body.init(key_body, x)
        shapes = jax.eval_shape(lambda: body.apply(params, state, x, train=True)[0])
        z = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _widened(leaf.dtype, params)), shapes)
        return {"body": params, "head": head.init(key_head, z)}, state

    def encode(
        meta: PyTree,
        state: PyTree,
        x: PyTree,
        *,
        train: bool,
        key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        return (x, state) if per_task else features(meta, state, x, train=train, key=key, mask=mask)

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key | None, *, train: bool
    ) -> tuple[Fitted, PyTree, Metrics]:
        statistics = None
        if per_task:
            x, mask, noise = support.x, support.mask, key if train else None
            statistics = support_state(body, meta["body"], state, x, key=noise, mask=mask)
            z, _ = features(meta, statistics, x, train=train, key=key, mask=mask)
            support = support._replace(x=z)
        present = _present_ways(head, meta["head"], support, way)
        fast, info = head.fit(meta["head"], support, key, present=present, train=train)
        return Fitted(fast, present, statistics), state, info

    def predict(
        meta: PyTree,
        fast: Fitted,
        state: PyTree,
        x: PyTree,
        key: Key | None,
        *,
        train: bool,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        if per_task:
            x, _ = features(meta, fast.statistics, x, train=train, key=key, mask=mask)
        outputs = head.predict(meta["head"], fast.fast, x)
        if fast.present is None or getattr(outputs, "ndim", None) != 2:
            return outputs, state
        return mask_absent_ways(outputs, fast.present), state

    @functools.cache  # programs are compiled once for each adapter
    def with_norm(other: Norm) -> Adapter:
        check_other_norm(norm, other)
        return on_features(body, head, way, norm=other)

    return Adapter(init, adapt, predict, encode, head.draws_at_test, with_norm)


def _widened(dtype: jnp.dtype, params: PyTree) -> jnp.dtype:
    """Widen the type of features to that of the body's parameters, which a head's are to have as well."""
    floats = [leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.result_type(dtype, *floats) if jnp.issubdtype(dtype, jnp.floating) else dtype


def _present_ways(head: Head, meta: PyTree, support: Batch, way: int | None) -> Array | None:
    """Find the ways [way] with a real support example; None if nothing is padded or classified."""

    def outputs() -> PyTree:
        if way is not None:
            return jnp.zeros((1, way))
        fast, _ = head.fit(meta, support, jax.random.key(0), present=None, train=True)
        return head.predict(meta, fast, support.x)

    return padded_ways(support, outputs)
