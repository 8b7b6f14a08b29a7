"""Brute force for the flow tests: the full space, fixed steps, plain loss; and random problems."""

import jax
import jax.numpy as jnp
import numpy as np


def loss(w, w0, features, labels, ridge, weight, absent):
    """Mean cross-entropy over the examples of weight 1, plus the proximal term."""
    logits = features @ w.T - 1e9 * absent[None, :]
    per_example = -(labels * (logits - jax.nn.logsumexp(logits, axis=1, keepdims=True))).sum(1)
    return (weight * per_example).sum() / weight.sum() + ridge / 2 * ((w - w0) ** 2).sum()


def runge_kutta(w0, features, horizon, labels, ridge, weight=None, absent=None, *, steps=20_000, power=1):
    """W(T) by the classical Runge-Kutta method with steps fixed beforehand, and back through all of them.

    They are equal, or with power 2 grow in proportion, for flows that slow down as labels are fitted.
    """
    weight = jnp.ones(features.shape[0]) if weight is None else weight
    absent = jnp.zeros(w0.shape[0]) if absent is None else absent
    sizes = jnp.asarray(np.diff(np.linspace(0, 1, steps + 1) ** power)).reshape(-1, 100)

    def slope(w):
        return -jax.grad(loss)(w, w0, features, labels, ridge, weight, absent)

    def step(w, size):
        h = horizon * size
        k1 = slope(w)
        k2 = slope(w + h / 2 * k1)
        k3 = slope(w + h / 2 * k2)
        k4 = slope(w + h * k3)
        return w + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    @jax.checkpoint
    def segment(w, sizes):
        return jax.lax.scan(step, w, sizes)[0], None

    return jax.lax.scan(segment, w0, sizes)[0]


def gradient_descent(w0, features, labels, ridge, step_sizes):
    """W after gradient steps of these sizes."""
    ones, none = jnp.ones(features.shape[0]), jnp.zeros(w0.shape[0])

    def step(w, size):
        return w - size * jax.grad(loss)(w, w0, features, labels, ridge, ones, none), None

    return jax.lax.scan(step, w0, step_sizes)[0]


def problem(seed, shot, way, feature, *, scale=1.0):
    """w0, features, one-hot labels with every way present, and an outer gradient."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(shot) % way)
    center = rng.normal(size=(way, feature))
    features = scale * (0.7 * center[label] + rng.normal(size=(shot, feature))) / np.sqrt(feature)
    w0 = rng.normal(size=(way, feature)) / np.sqrt(feature)
    outer = rng.normal(size=(way, feature))
    return tuple(jnp.asarray(a) for a in (w0, features, np.eye(way)[label], outer))


def padded(array, *shape):
    """`array` in the corner of zeros of a larger shape."""
    return jnp.zeros(shape).at[tuple(slice(n) for n in array.shape)].set(array)


def relative(a, b):
    """Norm of a - b over the norm of b."""
    return float(jnp.linalg.norm(jnp.ravel(a - b)) / jnp.linalg.norm(jnp.ravel(b)))
