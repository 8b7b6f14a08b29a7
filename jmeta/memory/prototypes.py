"""Online prototypes: a class is remembered by the mean of its features (OPN), or by a gated average of
features that an LSTM shifts by their context (CPM).

Ren, Iuzzolino, Mozer & Zemel, Wandering Within a World: Online Contextualized Few-Shot Learning, ICLR 2021.

Deviations. Features of CPM are not normalized; Ren et al. normalize those of their larger images.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta.bounds import labels_factor
from jmeta.losses import at_labels, at_least_float32, masked_sum, require_labels
from jmeta.memory.delayed import DelayedLoss, empty_queue, enqueue
from jmeta.memory.labels import one_hot_feedback, require_feedback
from jmeta.memory.similarity import cosine
from jmeta.models.cells import Cell, apply_gates, lstm_cell
from jmeta.types import Array, Key, Memory, Model, PyTree, Stream

UNKNOWN = -1e6  # the logit of a class without a label so far


class Prediction(NamedTuple):
    """`logits` [way], UNKNOWN for a way without a label so far; `novelty` [], the logit of a new class."""

    logits: Array
    novelty: Array


class Prototypes(NamedTuple):
    """`means` [way, feature] and `counts` [way] of the labeled features; `queue` [delay, feature]."""

    means: Array
    counts: Array
    queue: Array


def opn(way: int, encoder: Model, *, delay: int = 1) -> Memory:
    """Build an online prototypical network: the nearest class mean, and a learned threshold for new classes.

    Args:
      way: number of label slots.
      encoder: maps inputs to features [time, d].
      delay: number of steps after which a label arrives, as in the stream.

    Returns:
      A `Memory` with `Prediction`s. Its loss sums over the steps the binary cross-entropy of novelty and, if
      the class is known, the cross-entropy among known classes.
    """
    _check_delay("opn", delay)
    loss = DelayedLoss("opn", known_and_new_loss, delay)

    def init(key: Key, x: Array) -> tuple[dict, PyTree]:
        params, state = encoder.init(key, x)
        novelty = {"beta": jnp.asarray(10, x.dtype), "gamma": jnp.asarray(1, x.dtype)}
        return {"encoder": params, "novelty": novelty}, state

    def prepare(
        params: dict, state: PyTree, x: Array, feedback: Array, *, train: bool, key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[tuple[Array, Array], PyTree]:  # fmt: skip
        require_feedback("opn", feedback, way)
        features, state = encoder.apply(params["encoder"], state, x, train=train, key=key, mask=mask)
        return (features, feedback), state

    def carry(params: dict, inputs: tuple[Array, Array]) -> Prototypes:
        return _empty(way, delay, inputs[0])

    def step(params: dict, carry: Prototypes, inputs: tuple[Array, Array]) -> tuple[Prototypes, Prediction]:
        features, label = inputs
        count, here = carry.counts, one_hot_feedback(label, way, carry.means.dtype)[:, None]
        mean = (count[:, None] * carry.means + carry.queue[0][None]) / (count[:, None] + 1)
        means = carry.means + here * (mean - carry.means)
        counts = count + here[:, 0]
        distance = jnp.square(features[None] - means).sum(-1)
        novelty = (distance.min() - params["novelty"]["beta"]) / params["novelty"]["gamma"]
        prediction = Prediction(jnp.where(counts == 0, UNKNOWN, -distance), novelty)
        return Prototypes(means, counts, enqueue(carry.queue, features)), prediction

    return Memory(init, prepare, carry, step, loss)


class CPMWeights(NamedTuple):
    """Weights of CPM.

    The `encoder`'s parameters; the context LSTM with the `scale` [4, hidden] of its gates' layer
    normalization; `readout` [hidden, 2 feature + 2] and `bias`; the write gate `write` [2 feature] and
    `write_bias`; the `temperature` [].
    """

    encoder: PyTree
    lstm: Cell
    scale: Array
    readout: Array
    bias: Array
    write: Array
    write_bias: Array
    temperature: Array


class CPMState(NamedTuple):
    """The memory of CPM: the `prototypes` and the LSTM's (output, state)."""

    prototypes: Prototypes
    lstm: tuple[Array, Array]


def cpm(way: int, encoder: Model, *, delay: int = 1, hidden: int = 256) -> Memory:
    """Build a contextual prototypical memory.

    An LSTM over the features, which sees no labels, shifts each feature, weighs its entries for comparison
    and sets the threshold for new classes; a learned gate averages the prototype of the label and leaves the
    others alone.

    Args:
      way: number of label slots.
      encoder: maps inputs to features [time, d].
      delay: number of steps after which a label arrives, as in the stream.
      hidden: size of the LSTM.

    Returns:
      A `Memory` with `Prediction`s and the loss of `opn`.
    """
    _check_delay("cpm", delay)
    loss = DelayedLoss("cpm", known_and_new_loss, delay)

    def init(key: Key, x: Array) -> tuple[CPMWeights, PyTree]:
        key_encoder, key_lstm, key_readout, key_write = jax.random.split(key, 4)
        params, state = encoder.init(key_encoder, x)
        size = jax.eval_shape(lambda: encoder.apply(params, state, x, train=False)[0]).shape[-1]
        lecun = jax.nn.initializers.lecun_normal()
        bias = jnp.zeros(2 * size + 2, x.dtype).at[-1].set(-12)  # the threshold of novelty
        return CPMWeights(
            encoder=params,
            lstm=lstm_cell(key_lstm, size, hidden, x.dtype),
            scale=jnp.ones((4, hidden), x.dtype),
            readout=lecun(key_readout, (hidden, 2 * size + 2), x.dtype),
            bias=bias,
            write=lecun(key_write, (2 * size, 1), x.dtype)[:, 0],
            write_bias=jnp.asarray(-2, x.dtype),
            temperature=jnp.asarray(10, x.dtype),
        ), state

    def prepare(
        params: CPMWeights, state: PyTree, x: Array, feedback: Array, *, train: bool,
        key: Key | None = None, mask: Array | None = None,
    ) -> tuple[tuple[Array, Array, Array], PyTree]:  # fmt: skip
        require_feedback("cpm", feedback, way)
        features, state = encoder.apply(params.encoder, state, x, train=train, key=key, mask=mask)
        return (features, features @ params.lstm.inputs, feedback), state

    def carry(params: CPMWeights, inputs: tuple[Array, Array, Array]) -> CPMState:
        rest = jnp.zeros(hidden, inputs[0].dtype)
        return CPMState(_empty(way, delay, inputs[0]), (rest, rest))

    def step(
        params: CPMWeights, carry: CPMState, inputs: tuple[Array, Array, Array]
    ) -> tuple[CPMState, Prediction]:
        features, gates, label = inputs
        gates = _layer_norm(gates + carry.lstm[0] @ params.lstm.recurrent, params.scale) + params.lstm.bias
        output, state = apply_gates(gates, carry.lstm[1])
        shift, comparison, (scale, threshold) = jnp.split(
            output @ params.readout + params.bias, [features.size, 2 * features.size]
        )
        before = carry.prototypes
        means, counts = write(params, before, before.queue[0], label), before.counts
        counts = counts + one_hot_feedback(label, way, counts.dtype)
        placed, weights = features + shift, jax.nn.softplus(comparison)
        similarity = cosine((weights * placed)[None], weights[None] * means)[0]
        logits = params.temperature * similarity
        novelty = ((-logits).min() - threshold) / jax.nn.softplus(scale + 1)
        prediction = Prediction(jnp.where(counts == 0, UNKNOWN, logits), novelty)
        return CPMState(Prototypes(means, counts, enqueue(before.queue, placed)), (output, state)), prediction

    def write(params: CPMWeights, before: Prototypes, placed: Array, label: Array) -> Array:
        """Update the prototypes, zero at first, by a labeled feature: (1 - a) p + a z."""
        here = one_hot_feedback(label, way, placed.dtype)[:, None]
        pairs = jnp.concatenate([jnp.broadcast_to(placed, before.means.shape), before.means], axis=-1)
        gate = jax.nn.sigmoid(pairs @ params.write + params.write_bias)[:, None]
        return before.means + here * gate * (placed[None] - before.means)

    return Memory(init, prepare, carry, step, loss)


def known_and_new_loss(outputs: Prediction, stream: Stream) -> Array:
    """Sum over time the binary cross-entropy of novelty and, for known classes, that of the label.

    Raises ValueError if the shapes do not fit, and for concrete labels out of range; traced ones make it NaN.
    """
    require_labels("known_and_new_loss", outputs.logits, stream.y, "time")
    factor = labels_factor("known_and_new_loss", stream.y, outputs.logits.shape[-1], stream.mask)
    logits, novelty = at_least_float32(outputs.logits), at_least_float32(outputs.novelty)
    label_logit = at_labels(logits, stream.y)  # [time]
    known = label_logit > UNKNOWN / 2
    log_p = label_logit - jax.scipy.special.logsumexp(logits, axis=1)
    new = optax.sigmoid_binary_cross_entropy(novelty, 1 - known.astype(label_logit.dtype))
    return masked_sum(new - jnp.where(known, log_p, 0), stream.mask) * factor


def _empty(way: int, delay: int, features: Array) -> Prototypes:
    size, dtype = features.shape[-1], features.dtype
    return Prototypes(jnp.zeros((way, size), dtype), jnp.zeros(way, dtype), empty_queue(delay, size, dtype))


def _layer_norm(gates: Array, scale: Array) -> Array:
    """Normalize the pre-activations [4 hidden] of each gate and scale them by `scale` [4, hidden]."""
    return (jax.nn.standardize(gates.reshape(4, -1), epsilon=1e-5) * scale).reshape(-1)


def _check_delay(who: str, delay: int) -> None:
    if delay < 1:
        raise ValueError(f"{who}: delay={delay}; expected at least 1")
