"""Gradient descent that shrinks towards its start, as strongly as each module's learned prior says.

Chen et al., Modular Meta-Learning with Shrinkage, NeurIPS 2020 (sigma-MAML).

Deviations. The prior stands beside the loss as it is, a mean over examples; the paper's is their sum, under
which the same prior has a variance smaller by the number of examples. The implicit step is ours, and so are
log sigma^2 = 0 at the start and one variance for each layer, normalization layers included.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.tree import by_module, modules
from jmeta.types import Array, Key, PyTree, Rule


def proximal_sgd(
    rate: float, *, log_variance: float = 0.0, learn: bool = True, implicit_step: bool = True
) -> Rule:
    """Build descent on loss + sum over modules m of |w_m - start_m|^2 / (2 sigma_m^2), with learned sigma_m.

    A module is a layer, whose kernel and bias share one sigma. As it grows, this becomes plain descent; as it
    goes to 0, the module stays at its start.

    Args:
      rate: the learning rate, fixed.
      log_variance: log sigma^2, initially if it is learned.
      learn: learn log sigma^2 of each module.
      implicit_step: take the prior's gradient at the end of the step, w <- (w - rate g + r start) / (1 + r)
        with r = rate / sigma^2, which is stable for every sigma; otherwise at its beginning.

    Returns:
      A `Rule` with hyper {"log_variance": {module: []}}, by the module's path, or () if nothing is learned.

    Raises:
      ValueError: for a rate that is not positive.
    """
    if not rate > 0:
        raise ValueError(f"proximal_sgd: rate={rate}; expected a positive number")

    def init(key: Key, params: PyTree) -> PyTree:
        if not learn:
            return ()
        start = {
            name: jnp.full((), log_variance, leaves[0].dtype) for name, leaves in modules(params).items()
        }
        return {"log_variance": start}

    def start(hyper: PyTree, params: PyTree, key: Key | None) -> PyTree:
        return params

    def move(g: Array, logs: Array, way_back: Array) -> Array:
        if not implicit_step:
            return -rate * (g + jnp.exp(-logs) * way_back)
        # 1 / (1 + r) and r / (1 + r), for any r
        kept, back = jax.nn.sigmoid(logs - math.log(rate)), jax.nn.sigmoid(math.log(rate) - logs)
        return -(kept * rate * g + back * way_back)

    def update(
        hyper: PyTree, grads: PyTree, carry: PyTree, params: PyTree, *, loss: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        way_back = jax.tree.map(jnp.subtract, params, carry)
        logs: Any = hyper["log_variance"] if learn else {m: jnp.asarray(log_variance) for m in modules(grads)}
        return by_module(move, grads, logs, way_back), carry

    return Rule(init, start, update)
