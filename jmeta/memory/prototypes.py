"""Online prototypes: a class is remembered by the mean of its features (OPN), or by a gated average of
features that an LSTM places in their context (CPM).

Ren, Iuzzolino, Mozer & Zemel, Wandering Within a World: Online Contextualized Few-Shot Learning, ICLR 2021.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta.memory.delayed import empty_queue, push
from jmeta.memory.similarity import cosine
from jmeta.models.recurrent import Cell, gated, lstm_cell
from jmeta.types import Array, Key, Memory, Model, PyTree, Stream

UNKNOWN = -1e6  # the logit of a class of which no label has arrived


class Prediction(NamedTuple):
    """`logits` [way], UNKNOWN where no label of a way has arrived; `novelty` [], the logit of a new class."""

    logits: Array
    novelty: Array


class Prototypes(NamedTuple):
    """`means` [way, feature] and `counts` [way] of what has been labelled; `queue` [delay, feature]."""

    means: Array
    counts: Array
    queue: Array


def opn(way: int, encoder: Model, *, delay: int = 1) -> Memory:
    """Online prototypical network: the nearest running class mean, and a learned threshold for new classes.

    Args:
      way: number of label slots.
      encoder: makes features [time, d] of inputs.
      delay: after how many steps a label arrives, as in the stream.

    Returns:
      A `Memory` with `Prediction`s. Its loss sums over the steps the cross-entropy among known classes, where
      the class is known, and the binary cross-entropy of novelty.
    """
    _check_delay("opn", delay)

    def init(key: Key, x: Array) -> tuple[dict, PyTree]:
        params, state = encoder.init(key, x)
        novelty = {"beta": jnp.asarray(10, x.dtype), "gamma": jnp.asarray(1, x.dtype)}
        return {"encoder": params, "novelty": novelty}, state

    def prepare(
        params: dict, state: PyTree, x: Array, feedback: Array, *, train: bool, key: Key | None = None,
        mask: Array | None = None,
    ) -> tuple[tuple[Array, Array], PyTree]:  # fmt: skip
        features, state = encoder.apply(params["encoder"], state, x, train=train, key=key)
        return (features, feedback), state

    def carry(params: dict, inputs: tuple[Array, Array]) -> Prototypes:
        return _nothing(way, delay, inputs[0])

    def step(params: dict, carry: Prototypes, inputs: tuple[Array, Array]) -> tuple[Prototypes, Prediction]:
        features, label = inputs
        count, here = carry.counts, jax.nn.one_hot(label, way, dtype=carry.means.dtype)[:, None]
        mean = (count[:, None] * carry.means + carry.queue[0][None]) / (count[:, None] + 1)
        means = carry.means + here * (mean - carry.means)
        counts = count + here[:, 0]
        distance = jnp.square(features[None] - means).sum(-1)
        novelty = (distance.min() - params["novelty"]["beta"]) / params["novelty"]["gamma"]
        prediction = Prediction(jnp.where(counts > 0, -distance, UNKNOWN), novelty)
        return Prototypes(means, counts, push(carry.queue, features)), prediction

    return Memory(init, prepare, carry, step, known_and_new)


class ContextWeights(NamedTuple):
    """CPM's weights: the `encoder`'s parameters; the context LSTM with the `scale` [4, hidden] of its gates'
    layer normalisation; `readout` [hidden, 2 feature + 2] and `bias`; the write gate `write` [2 feature] and
    `write_bias`; the `temperature` []."""

    encoder: PyTree
    lstm: Cell
    scale: Array
    readout: Array
    bias: Array
    write: Array
    write_bias: Array
    temperature: Array


class Context(NamedTuple):
    """CPM's memory: the `prototypes` and the LSTM's (output, state)."""

    prototypes: Prototypes
    lstm: tuple[Array, Array]


def cpm(way: int, encoder: Model, *, delay: int = 1, hidden: int = 256) -> Memory:
    """Contextual prototypical memory: an LSTM over the features, which sees no labels, shifts each feature,
    chooses what of it to compare, and sets the threshold for new classes; a learned gate averages prototypes.

    Args: as `opn`; `hidden` is the LSTM's size. Writes are sparse: other prototypes stay as they are.

    Returns:
      A `Memory` with `Prediction`s and `opn`'s loss.
    """
    _check_delay("cpm", delay)

    def init(key: Key, x: Array) -> tuple[ContextWeights, PyTree]:
        key_encoder, key_lstm, key_readout, key_write = jax.random.split(key, 4)
        params, state = encoder.init(key_encoder, x)
        size = jax.eval_shape(lambda: encoder.apply(params, state, x, train=False)[0]).shape[-1]
        start = jax.nn.initializers.lecun_normal()
        bias = jnp.zeros(2 * size + 2, x.dtype).at[-1].set(-12)  # the threshold of novelty
        return ContextWeights(
            encoder=params,
            lstm=lstm_cell(key_lstm, size, hidden, x.dtype),
            scale=jnp.ones((4, hidden), x.dtype),
            readout=start(key_readout, (hidden, 2 * size + 2), x.dtype),
            bias=bias,
            write=start(key_write, (2 * size, 1), x.dtype)[:, 0],
            write_bias=jnp.asarray(-2, x.dtype),
            temperature=jnp.asarray(10, x.dtype),
        ), state

    def prepare(
        params: ContextWeights, state: PyTree, x: Array, feedback: Array, *, train: bool,
        key: Key | None = None, mask: Array | None = None,
    ) -> tuple[tuple[Array, Array, Array], PyTree]:  # fmt: skip
        features, state = encoder.apply(params.encoder, state, x, train=train, key=key)
        return (features, features @ params.lstm.inputs, feedback), state

    def carry(params: ContextWeights, inputs: tuple[Array, Array, Array]) -> Context:
        rest = jnp.zeros(hidden, inputs[0].dtype)
        return Context(_nothing(way, delay, inputs[0]), (rest, rest))

    def step(
        params: ContextWeights, carry: Context, inputs: tuple[Array, Array, Array]
    ) -> tuple[Context, Prediction]:
        features, gates, label = inputs
        gates = _layer_norm(gates + carry.lstm[0] @ params.lstm.recurrent, params.scale) + params.lstm.bias
        output, state = gated(gates, carry.lstm[1])
        shift, compared, (scale, threshold) = jnp.split(
            output @ params.readout + params.bias, [features.size, 2 * features.size]
        )
        before = carry.prototypes
        means, counts = write(params, before, before.queue[0], label), before.counts
        counts = counts + jax.nn.one_hot(label, way, dtype=counts.dtype)
        placed, weights = features + shift, jax.nn.softplus(compared)
        similarity = cosine((weights * placed)[None], weights[None] * means)[0]
        logits = params.temperature * similarity
        novelty = ((-logits).min() - threshold) / jax.nn.softplus(scale + 1)
        prediction = Prediction(jnp.where(counts > 0, logits, UNKNOWN), novelty)
        return Context(Prototypes(means, counts, push(before.queue, placed)), (output, state)), prediction

    def write(params: ContextWeights, before: Prototypes, placed: Array, label: Array) -> Array:
        """The prototypes, zero at first, after a labelled feature: (1 - a) p + a z."""
        here = jax.nn.one_hot(label, way, dtype=placed.dtype)[:, None]
        pairs = jnp.concatenate([jnp.broadcast_to(placed, before.means.shape), before.means], axis=-1)
        gate = jax.nn.sigmoid(pairs @ params.write + params.write_bias)[:, None]
        return before.means + here * gate * (placed[None] - before.means)

    return Memory(init, prepare, carry, step, known_and_new)


def known_and_new(outputs: Prediction, stream: Stream) -> Array:
    """Sum over time of the cross-entropy where the class is known and of the binary one of novelty; nats."""
    of_label = jnp.take_along_axis(outputs.logits, stream.y[:, None], axis=1)[:, 0]
    known = of_label > UNKNOWN / 2
    picked = of_label - jax.scipy.special.logsumexp(outputs.logits, axis=1)
    new = optax.sigmoid_binary_cross_entropy(outputs.novelty, 1 - known.astype(of_label.dtype))
    real = jnp.ones_like(of_label) if stream.mask is None else stream.mask.astype(of_label.dtype)
    return (real * (new - jnp.where(known, picked, 0))).sum()


def _nothing(way: int, delay: int, features: Array) -> Prototypes:
    size, dtype = features.shape[-1], features.dtype
    return Prototypes(jnp.zeros((way, size), dtype), jnp.zeros(way, dtype), empty_queue(delay, size, dtype))


def _layer_norm(gates: Array, scale: Array) -> Array:
    """Each gate's pre-activations [4 hidden] normalised and scaled by [4, hidden]."""
    return (jax.nn.standardize(gates.reshape(4, -1), epsilon=1e-5) * scale).reshape(-1)


def _check_delay(who: str, delay: int) -> None:
    if delay < 1:
        raise ValueError(f"{who}: delay={delay}; expected at least 1")
