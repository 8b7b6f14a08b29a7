"""Adaptive posterior learning: store surprising examples, decide by attention among the nearest ones.

Ramalho & Garnelo, Adaptive Posterior Learning: few-shot learning with a surprise-based memory module, ICLR
2019; on the online streams of Babu et al., NeurIPS 2021, Table 1.

Deviations. Neighbors are stored examples first, and empty slots only if there are too few.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.bounds import one_or_nan
from jmeta.losses import summed_cross_entropy
from jmeta.memory.delayed import DelayedLoss, empty_queue, enqueue
from jmeta.memory.labels import require_feedback
from jmeta.types import Array, Key, Memory, Model, PyTree

_LABEL = 32  # size of a label's embedding
_HEAD, _HEADS = 256, 2  # size and number of the attention heads
_ATTENTIONS = 5


class _Attention(NamedTuple):
    """Weights of one attention layer.

    `project` [width, 3 width] to queries, keys and values of all heads; `linear` [width, width] and `bias`
    [width] of the linear layer that follows. Each has the scale and offset of a layer norm: `project_norm`
    [2, token, 3 width], `linear_norm` [2, width].
    """

    project: Array
    project_norm: Array
    linear: Array
    bias: Array
    linear_norm: Array


class APLWeights(NamedTuple):
    """Weights of APL.

    `encoder`: the network's parameters; `labels` [way + 1, 32]: an embedding of each label and of none;
    `tokens` [token, width] and `token_bias`; the `attentions`; the classifier `head` [width, way], `bias`.
    """

    encoder: PyTree
    labels: Array
    tokens: Array
    token_bias: Array
    attentions: tuple[_Attention, ...]
    head: Array
    bias: Array


class Surprises(NamedTuple):
    """The memory and the queue of examples that wait for their labels.

    `features` [slot, d] with their `labels` [slot], `way` for an empty slot; the number `written` [] so far;
    `waiting` [delay, d], the features in the queue, and `predicted` [delay, way], their log-probabilities.
    """

    features: Array
    labels: Array
    written: Array
    waiting: Array
    predicted: Array


def apl(
    way: int,
    encoder: Model,
    *,
    delay: int = 1,
    slots: int = 64,
    neighbors: int = 5,
    surprise: float = 0.75,
    noise: float = 0.0,
) -> Memory:
    """Build a store of labeled features, written if the label was a surprise, and a relational decoder.

    Args:
      way: number of label slots.
      encoder: maps inputs to features [time, d].
      delay: number of steps after which a label arrives, as in the stream.
      slots: examples that the memory holds; a new one replaces the oldest.
      neighbors: number of nearest stored examples that a decision reads.
      surprise: an example is written if -log p(label) is above this share of log(way).
      noise: largest uniform noise on the inputs in training, if there is a key (0.1 in the released code).

    Returns:
      A `Memory` whose outputs are logits [time, way] and whose loss is the sum over the steps of their
      cross-entropy. The gradient reaches the features of the step itself, not the stored ones nor the
      distances (as in the released code). All steps of a stream make one update; the released code makes one
      in each step.

    Raises:
      ValueError: for a delay below 1, or neighbors outside 1 to `slots`.
    """
    if delay < 1 or not 1 <= neighbors <= slots:
        raise ValueError(
            f"apl: delay={delay}, neighbors={neighbors}, slots={slots}; expected a delay of at least 1, "
            "and 1 to slots neighbors"
        )
    threshold, width = surprise * math.log(way), _HEAD * _HEADS

    def init(key: Key, x: Array) -> tuple[APLWeights, PyTree]:
        key_encoder, key_labels, key_tokens, key_head, *keys = jax.random.split(key, 4 + 2 * _ATTENTIONS)
        params, state = encoder.init(key_encoder, x)
        size = jax.eval_shape(lambda: encoder.apply(params, state, x, train=False)[0]).shape[-1]
        glorot = jax.nn.initializers.glorot_normal()

        def norm(*shape: int) -> Array:
            return jnp.stack([jnp.ones(shape, x.dtype), jnp.zeros(shape, x.dtype)])

        attentions = tuple(
            _Attention(
                glorot(keys[2 * layer], (width, 3 * width), x.dtype),
                norm(neighbors, 3 * width),
                glorot(keys[2 * layer + 1], (width, width), x.dtype),
                jnp.zeros(width, x.dtype),
                norm(width),
            )
            for layer in range(_ATTENTIONS)
        )
        return APLWeights(
            encoder=params,
            labels=jax.random.normal(key_labels, (way + 1, _LABEL), x.dtype),
            tokens=glorot(key_tokens, (2 * size + _LABEL + 1, width), x.dtype),
            token_bias=jnp.zeros(width, x.dtype),
            attentions=attentions,
            head=glorot(key_head, (width, way), x.dtype),
            bias=jnp.zeros(way, x.dtype),
        ), state

    def prepare(
        params: APLWeights, state: PyTree, x: Array, feedback: Array, *, train: bool, key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[tuple[Array, Array], PyTree]:  # fmt: skip
        require_feedback("apl", feedback, way)
        if train and key is not None and noise:
            x = x + noise * jax.random.uniform(key, x.shape, x.dtype)
        features, state = encoder.apply(params.encoder, state, x, train=train, key=key, mask=mask)
        return (features, feedback), state

    def carry(params: APLWeights, inputs: tuple[Array, Array]) -> Surprises:
        size, dtype = inputs[0].shape[-1], inputs[0].dtype
        return Surprises(
            features=jnp.zeros((slots, size), dtype),
            labels=jnp.full(slots, way, inputs[1].dtype),
            written=jnp.zeros((), jnp.int32),
            waiting=empty_queue(delay, size, dtype),
            predicted=empty_queue(delay, way, dtype),
        )

    def step(params: APLWeights, carry: Surprises, inputs: tuple[Array, Array]) -> tuple[Surprises, Array]:
        features, label = inputs
        memory = write(carry, label)
        constant = jax.lax.stop_gradient(features)
        logits = decode(params, memory, features, constant)
        predicted = jax.lax.stop_gradient(jax.nn.log_softmax(logits))
        waiting = enqueue(carry.waiting, constant), enqueue(carry.predicted, predicted)
        return memory._replace(waiting=waiting[0], predicted=waiting[1]), logits

    def write(memory: Surprises, label: Array) -> Surprises:
        """Store the oldest example in the queue, whose label has arrived, if the label was unlikely.

        A label that is not among the slots spoils the whole memory.
        """
        factor = one_or_nan((label >= -1) & (label < way)).astype(memory.features.dtype)
        surprising = (label >= 0) & (-memory.predicted[0, label] > threshold)
        slot = jnp.where(surprising, memory.written % slots, slots)  # beyond the last: dropped
        return memory._replace(
            features=memory.features.at[slot].set(memory.waiting[0], mode="drop") * factor,
            labels=memory.labels.at[slot].set(label, mode="drop"),
            written=memory.written + surprising,
        )

    def decode(params: APLWeights, memory: Surprises, features: Array, constant: Array) -> Array:
        distance = jnp.square(memory.features - constant[None]).sum(-1)  # [slot]
        # Empty slots, zeros with a label of their own, come last.
        order = jnp.where(memory.labels == way, jnp.inf, distance)
        _, nearest = jax.lax.top_k(-order, neighbors)
        weight = jax.nn.softmax(-distance[nearest])
        query = jnp.broadcast_to(features, (neighbors, features.size))
        parts = (memory.features[nearest], params.labels[memory.labels[nearest]], query, weight[:, None])
        tokens = jnp.concatenate(parts, axis=-1) @ params.tokens + params.token_bias[None]  # [token, width]
        for attention in params.attentions:
            tokens = tokens + _attend(attention, tokens)
            linear = jax.nn.relu(tokens) @ attention.linear + attention.bias[None]
            tokens = tokens + _layer_norm(linear, attention.linear_norm, -1)
        return weight @ tokens @ params.head + params.bias

    return Memory(init, prepare, carry, step, DelayedLoss("apl", summed_cross_entropy, delay))


def _attend(attention: _Attention, tokens: Array) -> Array:
    """Apply multi-head dot-product attention to tokens [token, width], all normalized together."""
    projected = _layer_norm(tokens @ attention.project, attention.project_norm, (0, 1))
    by_head = projected.reshape(tokens.shape[0], _HEADS, 3, _HEAD)
    queries, keys, values = by_head[:, :, 0], by_head[:, :, 1], by_head[:, :, 2]  # [token, head, _HEAD]
    scores = jnp.einsum("thd,shd->hts", queries * _HEAD**-0.5, keys)
    return jnp.einsum("hts,shd->thd", jax.nn.softmax(scores), values).reshape(tokens.shape)


def _layer_norm(x: Array, norm: Array, axes: int | tuple[int, ...]) -> Array:
    scale, offset = jnp.broadcast_to(norm[0], x.shape), jnp.broadcast_to(norm[1], x.shape)
    return jax.nn.standardize(x, axes, epsilon=1e-5) * scale + offset
