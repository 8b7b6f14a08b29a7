"""Adaptive posterior learning: remember what surprised, decide by a relational look at the nearest memories.

Ramalho & Garnelo, Adaptive Posterior Learning: few-shot learning with a surprise-based memory module, ICLR
2019; on the online streams of Babu et al., NeurIPS 2021, Table 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.losses import summed_cross_entropy
from jmeta.memory.delayed import empty_queue, push
from jmeta.types import Array, Key, Memory, Model, PyTree

LABEL, HEAD, HEADS = 32, 256, 2  # sizes of a label's embedding and of an attention head; the number of heads
ATTENTIONS = 5


class Attention(NamedTuple):
    """Of one layer: `project` [width, 3 width] to queries, keys and values of all heads; what follows the
    attention, `linear` [width, width] and `bias` [width]. Each has a layer norm's scale and offset:
    `project_norm` [2, token, 3 width], `linear_norm` [2, width]."""

    project: Array
    project_norm: Array
    linear: Array
    bias: Array
    linear_norm: Array


class Weights(NamedTuple):
    """`encoder`: the network's parameters; `labels` [way + 1, 32]: an embedding of each label and of none;
    `tokens` [token, width] and `token_bias`; the `attentions`; the classifier `head` [width, way], `bias`."""

    encoder: PyTree
    labels: Array
    tokens: Array
    token_bias: Array
    attentions: tuple[Attention, ...]
    head: Array
    bias: Array


class Surprises(NamedTuple):
    """The memory: `features` [slot, d] with their `labels` [slot] (`way` where a slot is empty), the number
    `written` so far; and what waits for its label, `waiting` [delay, d] with the log-probabilities that were
    predicted for it, `predicted` [delay, way]."""

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
    neighbours: int = 5,
    surprise: float = 0.75,
    noise: float = 0.0,
) -> Memory:
    """A store of labelled features, written where the label was a surprise, and a relational decoder.

    Args:
      way: number of label slots.
      encoder: makes features [time, d] of inputs.
      delay: after how many steps a label arrives, as in the stream.
      slots: examples that the memory holds; the oldest makes room.
      neighbours: examples of the memory that a decision looks at, the nearest ones.
      surprise: an example is written where -log p(label) is above this share of log(way).
      noise: largest uniform noise on the inputs in training, where a key is given (the released code's 0.1).

    Returns:
      A `Memory` whose outputs are logits [time, way] and whose loss is the sum over the steps of their
      cross-entropy. No gradient passes through the memory: of the step's own features only, and not through
      the distances (as in the released code). All steps of a stream make one update, where the released code
      makes one a step.

    Raises:
      ValueError: for numbers that mean nothing.
    """
    if delay < 1 or not 1 <= neighbours <= slots:
        raise ValueError(
            f"apl: delay={delay}, neighbours={neighbours}, slots={slots}; expected a delay of at least 1, "
            "and 1 to slots neighbours"
        )
    threshold, width = surprise * math.log(way), HEAD * HEADS

    def init(key: Key, x: Array) -> tuple[Weights, PyTree]:
        key_encoder, key_labels, key_tokens, key_head, *keys = jax.random.split(key, 4 + 2 * ATTENTIONS)
        params, state = encoder.init(key_encoder, x)
        size = jax.eval_shape(lambda: encoder.apply(params, state, x, train=False)[0]).shape[-1]
        start = jax.nn.initializers.glorot_normal()

        def norm(*shape: int) -> Array:
            return jnp.stack([jnp.ones(shape, x.dtype), jnp.zeros(shape, x.dtype)])

        attentions = tuple(
            Attention(
                start(keys[2 * layer], (width, 3 * width), x.dtype),
                norm(neighbours, 3 * width),
                start(keys[2 * layer + 1], (width, width), x.dtype),
                jnp.zeros(width, x.dtype),
                norm(width),
            )
            for layer in range(ATTENTIONS)
        )
        return Weights(
            encoder=params,
            labels=jax.random.normal(key_labels, (way + 1, LABEL), x.dtype),
            tokens=start(key_tokens, (2 * size + LABEL + 1, width), x.dtype),
            token_bias=jnp.zeros(width, x.dtype),
            attentions=attentions,
            head=start(key_head, (width, way), x.dtype),
            bias=jnp.zeros(way, x.dtype),
        ), state

    def prepare(
        params: Weights, state: PyTree, x: Array, feedback: Array, *, train: bool, key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[tuple[Array, Array], PyTree]:  # fmt: skip
        if train and key is not None and noise:
            x = x + noise * jax.random.uniform(key, x.shape, x.dtype)
        features, state = encoder.apply(params.encoder, state, x, train=train, key=key)
        return (features, feedback), state

    def carry(params: Weights, inputs: tuple[Array, Array]) -> Surprises:
        size, dtype = inputs[0].shape[-1], inputs[0].dtype
        return Surprises(
            features=jnp.zeros((slots, size), dtype),
            labels=jnp.full(slots, way, inputs[1].dtype),
            written=jnp.zeros((), jnp.int32),
            waiting=empty_queue(delay, size, dtype),
            predicted=empty_queue(delay, way, dtype),
        )

    def step(params: Weights, carry: Surprises, inputs: tuple[Array, Array]) -> tuple[Surprises, Array]:
        features, label = inputs
        memory = write(carry, label)
        constant = jax.lax.stop_gradient(features)
        logits = decode(params, memory, features, constant)
        predicted = jax.lax.stop_gradient(jax.nn.log_softmax(logits))
        waiting = push(carry.waiting, constant), push(carry.predicted, predicted)
        return memory._replace(waiting=waiting[0], predicted=waiting[1]), logits

    def write(memory: Surprises, label: Array) -> Surprises:
        """Keep the oldest that waits, whose label has come, where that was unlikely."""
        surprising = (label >= 0) & (-memory.predicted[0, label] > threshold)
        slot = jnp.where(surprising, memory.written % slots, slots)  # beyond the last: dropped
        return memory._replace(
            features=memory.features.at[slot].set(memory.waiting[0], mode="drop"),
            labels=memory.labels.at[slot].set(label, mode="drop"),
            written=memory.written + surprising,
        )

    def decode(params: Weights, memory: Surprises, features: Array, constant: Array) -> Array:
        distance = jnp.square(memory.features - constant[None]).sum(-1)
        # empty slots, zeros with a label of their own, only where too few are written
        order = jnp.where(memory.labels == way, jnp.inf, distance)
        _, nearest = jax.lax.top_k(-order, neighbours)
        weight = jax.nn.softmax(-distance[nearest])
        seen = jnp.broadcast_to(features, (neighbours, features.size))
        parts = (memory.features[nearest], params.labels[memory.labels[nearest]], seen, weight[:, None])
        tokens = jnp.concatenate(parts, axis=-1) @ params.tokens + params.token_bias[None]
        for attention in params.attentions:
            tokens = tokens + _attend(attention, tokens)
            linear = jax.nn.relu(tokens) @ attention.linear + attention.bias[None]
            tokens = tokens + _layer_norm(linear, attention.linear_norm, -1)
        return weight @ tokens @ params.head + params.bias

    return Memory(init, prepare, carry, step, summed_cross_entropy)


def _attend(attention: Attention, tokens: Array) -> Array:
    """Multi-head dot-product attention among tokens [token, width], all normalised together."""
    projected = _layer_norm(tokens @ attention.project, attention.project_norm, (0, 1))
    by_head = projected.reshape(tokens.shape[0], HEADS, 3, HEAD)
    queries, keys, values = by_head[:, :, 0], by_head[:, :, 1], by_head[:, :, 2]
    scores = jnp.einsum("thd,shd->hts", queries * HEAD**-0.5, keys)
    return jnp.einsum("hts,shd->thd", jax.nn.softmax(scores), values).reshape(tokens.shape)


def _layer_norm(x: Array, norm: Array, axes: int | tuple[int, ...]) -> Array:
    scale, offset = jnp.broadcast_to(norm[0], x.shape), jnp.broadcast_to(norm[1], x.shape)
    return jax.nn.standardize(x, axes, epsilon=1e-5) * scale + offset
