"""A small network in NumPy with its gradient written out, and derivatives of anything by complex steps.

Two dense layers with batch normalization and tanh between them; each may be followed by a linear
transformation. Everything is analytic, so that one evaluation at a + ih gives the derivative in a to the last
digit, without a second derivative written out.
"""

import jax
import numpy as np
from flax import linen as nn

import jmeta
from jmeta.models.norm import BatchNorm
from jmeta.types import Batch, Task

INPUTS, HIDDEN, WAY = 3, 4, 3
EPSILON = 1e-5


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, mask=None):
        x = nn.Dense(HIDDEN, dtype=x.dtype, param_dtype=x.dtype, name="dense")(x)
        x = nn.tanh(BatchNorm(name="norm")(x, train=train, mask=mask))
        return nn.Dense(WAY, dtype=x.dtype, param_dtype=x.dtype, name="head")(x)


NETWORK = jmeta.from_linen(Network())


def draw_task(seed=0, shot=2, query=3):
    numbers = np.random.default_rng(seed)

    def batch(count):
        y = np.arange(WAY * count, dtype=np.int32) % WAY
        return Batch(numbers.normal(size=(y.size, INPUTS)) + np.eye(WAY)[y], y)

    return Task(batch(shot), batch(query))


def randomize(tree, seed=1, scale=0.5):
    """Draw every number of a tree anew, around its value."""
    numbers = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + scale * numbers.normal(size=np.shape(leaf)), tree)


def forward(params, x):
    """Compute the logits, and all that the gradient needs."""
    hidden = x @ params["dense"]["kernel"] + params["dense"]["bias"]
    first = params["dense"].get("transform", np.eye(HIDDEN))
    last = params["head"].get("transform", np.eye(WAY))
    hidden = hidden @ first
    center = hidden - hidden.mean(0)
    root = np.sqrt((center**2).mean(0) + EPSILON)
    normal = center / root
    active = np.tanh(params["norm"]["scale"] * normal + params["norm"]["bias"])
    logits = (active @ params["head"]["kernel"] + params["head"]["bias"]) @ last
    return logits, (x, first, last, root, normal, active)


def softmax(logits):
    powers = np.exp(logits - logits.real.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def loss(params, batch):
    logits, _ = forward(params, batch.x)
    return -np.log(softmax(logits)[np.arange(batch.y.size), batch.y]).mean()


def gradient(params, batch):
    """Compute the gradient of the mean cross-entropy in dense, norm and head, by the chain rule."""
    logits, (x, first, last, root, normal, active) = forward(params, batch.x)
    at_head = (softmax(logits) - np.eye(WAY)[batch.y]) / batch.y.size @ last.T
    at_norm = at_head @ params["head"]["kernel"].T * (1 - active**2)
    scaled = at_norm * params["norm"]["scale"]
    at_dense = (scaled - scaled.mean(0) - normal * (scaled * normal).mean(0)) / root @ first.T
    return {
        "dense": {"kernel": x.T @ at_dense, "bias": at_dense.sum(0)},
        "norm": {"scale": (at_norm * normal).sum(0), "bias": at_norm.sum(0)},
        "head": {"kernel": active.T @ at_head, "bias": at_head.sum(0)},
    }


def move(params, updates):
    """Add updates {layer: {name: array}} to parameters, which may have more."""
    return {layer: own | {name: own[name] + step for name, step in updates.get(layer, {}).items()}
            for layer, own in params.items()}  # fmt: skip


def scaled(grads, factor, layers=("dense", "norm", "head")):
    """Multiply the gradients of these layers by `factor(layer, name)`."""
    return {layer: {name: factor(layer, name) * g for name, g in grads[layer].items()} for layer in layers}


def derivative(function, tree, size=1e-30):
    """Differentiate `function(tree) -> number` in every entry of the tree by complex steps."""
    leaves, structure = jax.tree.flatten(tree)
    result = [np.zeros(np.shape(leaf)) for leaf in leaves]
    for index, leaf in enumerate(leaves):
        for entry in np.ndindex(np.shape(leaf)):
            moved = np.array(leaf, complex)
            moved[entry] += 1j * size
            changed = structure.unflatten([*leaves[:index], moved, *leaves[index + 1 :]])
            result[index][entry] = function(changed).imag / size
    return structure.unflatten(result)
