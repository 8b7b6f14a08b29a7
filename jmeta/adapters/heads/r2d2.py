"""R2D2: ridge regression onto one-hot labels, solved in the space of the examples.

Bertinetto et al., Meta-learning with Differentiable Closed-form Solvers, ICLR 2019, and its released code.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jmeta.bounds import labels_factor, spoil
from jmeta.losses import at_least_float32
from jmeta.types import Array, Batch, Head, Key, Metrics, PyTree


def r2d2(
    way: int,
    *,
    penalty: float = 50.0,
    penalty_by_shots: bool = True,
    learn_penalty: bool = False,
    scale: float = 10.0,
) -> Head:
    """Classify by the ridge regression of one-hot labels Y [shot, way] on features X [shot, feature + 1].

        W = X^T (X X^T + p I)^-1 Y        logits(z) = scale * [z, 1] W + bias

    X ends with a column of ones. The meta-parameters are the scalars {"log_penalty", "scale", "bias"}.

    Args:
      way: number of ways.
      penalty: strength lambda of the ridge at first.
      penalty_by_shots: whether p is lambda times the number of support examples, as in the released code,
        rather than lambda.
      learn_penalty: whether lambda is meta-learned; the released commands keep it fixed.
      scale: scale of the outputs at first: 10 for CIFAR-FS and Omniglot, 1e-4 for miniImageNet.

    Raises:
      ValueError: if penalty or scale is not positive.
    """
    for name, value in (("penalty", penalty), ("scale", scale)):
        if not value > 0:
            raise ValueError(f"r2d2: {name}={value}; expected a positive number")

    def init(key: Key, z: Array) -> PyTree:
        dtype = jnp.promote_types(z.dtype, jnp.float32)
        return {
            "log_penalty": jnp.log(jnp.asarray(penalty, dtype)),
            "scale": jnp.asarray(scale, dtype),
            "bias": jnp.zeros((), dtype),
        }

    def fit(
        meta: PyTree, support: Batch, key: Key | None, *, present: Array | None, train: bool
    ) -> tuple[Array, Metrics]:
        x = _with_ones(at_least_float32(support.x))
        y = jax.nn.one_hot(support.y, way, dtype=x.dtype)
        count = jnp.asarray(x.shape[0], x.dtype)
        if support.mask is not None:  # a row of zeros in X and Y changes nothing
            weights = support.mask.astype(x.dtype)
            root, count = jnp.sqrt(weights)[:, None], weights.sum()
            x, y = x * root, y * root
        log_penalty = meta["log_penalty"] if learn_penalty else jax.lax.stop_gradient(meta["log_penalty"])
        ridge = jnp.exp(log_penalty) * (count if penalty_by_shots else 1)
        gram = x @ x.T + ridge * jnp.eye(x.shape[0], dtype=x.dtype)  # [shot, shot]
        weights = x.T @ jax.scipy.linalg.solve(gram, y, assume_a="pos")  # [feature + 1, way]
        return spoil(weights, labels_factor("r2d2", support.y, way, support.mask)), {}

    def predict(meta: PyTree, weights: Array, z: Array) -> Array:
        return meta["scale"] * (_with_ones(z) @ weights) + meta["bias"]

    return Head(init, fit, predict)


def _with_ones(features: Array) -> Array:
    return jnp.concatenate([features, jnp.ones_like(features[:, :1])], axis=1)
