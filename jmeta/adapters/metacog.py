"""MetaCOG: a task chooses which weights to use, by masks that its inner loop adapts.

He et al., Task Agnostic Continual Learning via Meta Learning, 2019; as a baseline in Caccia et al., Online
Fast Adaptation and Knowledge Accumulation, NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jmeta.inner.gradient import Order, inner_loop
from jmeta.inner.selection import Selection, merge, split
from jmeta.models.normalisation import apply_with_norm
from jmeta.rules.sgd import sgd
from jmeta.types import Adapter, Array, Batch, Key, Metrics, Model, PyTree


def metacog(
    model: Model,
    loss: Callable[[PyTree, Batch], Array],
    *,
    rate: float,
    steps: int,
    masked: Selection,
    adapted: Selection = ("head",),
    initial: float = 0.5,
    penalty: float = 0.0,
    order: Order = "mixed",
) -> Adapter:
    """The network with weights theta * sigmoid(z); the inner loop adapts z, and the classifier itself.

    The inner loss is that of the support set + penalty * sum sigmoid(z). Batch normalisation uses the batch
    at hand. The meta-parameters are {"params": theta, "rule": ()}.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      rate, steps: of the inner gradient descent.
      masked: the weights that have masks, by path, as in `gradient_adapter`.
      adapted: the weights that adapt themselves, and have no mask.
      initial: z at the start of every inner loop.
      penalty: weight of the masks' L1 norm.
      order: how the inner loop is differentiated, see `jmeta.inner_loop`.
    """

    def start(params: PyTree) -> PyTree:
        behind_masks, _ = split(params, masked, "metacog: masked")
        direct, _ = split(params, adapted, "metacog: adapted")
        logits = jax.tree.map(lambda leaf: jnp.full_like(leaf, initial), behind_masks)
        return {"logits": logits, "direct": direct}

    def effective(fast: PyTree, params: PyTree) -> PyTree:
        behind_masks, _ = split(params, masked)
        weights = jax.tree.map(lambda w, z: w * jax.nn.sigmoid(z), behind_masks, fast["logits"])
        return merge(fast["direct"], merge(weights, params))

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        params, state = model.init(key, x)
        return {"params": params, "rule": ()}, state

    def outputs_of(fast: PyTree, meta: PyTree, state: PyTree, x: PyTree, mask: Array | None) -> PyTree:
        params = effective(fast, meta["params"])
        return apply_with_norm(model, "batch", params, state, x, train=True, mask=mask)[0]

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key | None, *, train: bool
    ) -> tuple[PyTree, PyTree, Metrics]:
        def support_loss(fast: PyTree, step: Array) -> Array:
            sizes = jax.tree.map(lambda z: jax.nn.sigmoid(z).sum(), fast["logits"])
            fit = loss(outputs_of(fast, meta, state, support.x, support.mask), support)
            return fit + penalty * sum(jax.tree.leaves(sizes))

        fast, trace = inner_loop(support_loss, sgd(rate), (), start(meta["params"]), steps, order=order)
        return fast, state, {"support_loss": trace.losses[0]} if steps else {}

    def predict(
        meta: PyTree,
        fast: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key | None,
        *,
        train: bool,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        return outputs_of(fast, meta, state, x, mask), state

    return Adapter(init=init, adapt=adapt, predict=predict)
