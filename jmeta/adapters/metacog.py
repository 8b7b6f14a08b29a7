"""MetaCOG: a task chooses which weights to use, by masks that its inner loop adapts.

He et al., Task Agnostic Continual Learning via Meta Learning, 2019; as a baseline in Caccia et al., Online
Fast Adaptation and Knowledge Accumulation, NeurIPS 2020.

Deviations. The penalty is the sum of the masks.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmeta.inner.gradient import Order, inner_loop
from jmeta.losses import mask_absent_ways, padded_ways
from jmeta.models.norm_policy import apply_with_norm
from jmeta.rules.sgd import sgd
from jmeta.tree import Selection, merge, split
from jmeta.types import Adapter, Array, Batch, BatchLoss, Key, Metrics, Model, PyTree


class Chosen(NamedTuple):
    """The choice of a task: `logits` of the masks, the `direct` weights that adapt themselves, and the
    `present` ways [way] if episodes are padded (else None)."""

    logits: PyTree
    direct: PyTree
    present: Array | None


def metacog(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float,
    inner_steps: int,
    masked: Selection,
    adapted: Selection = ("head",),
    mask_initial: float = 0.5,
    mask_penalty: float = 0.0,
    order: Order = "mixed",
) -> Adapter:
    """Adapt masks z of the weights theta * sigmoid(z), and the classifier itself, by gradient descent.

    The inner loss is that of the support set + mask_penalty * sum sigmoid(z). Batch normalization uses the
    batch at hand. The meta-parameters are {"params": theta, "rule": ()}.

    Args:
      model, loss: the network and `loss(outputs, batch)`.
      inner_lr, inner_steps: rate and number of steps of the inner gradient descent.
      masked: the weights that have masks, by path, as in `gradient_adapter`.
      adapted: the weights that adapt themselves, and have no mask.
      mask_initial: z at the start of every inner loop.
      mask_penalty: weight of the masks' L1 norm.
      order: how the inner loop is differentiated, see `jmeta.inner_loop`.
    """

    def start(params: PyTree) -> Chosen:
        behind_masks, _ = split(params, masked, "metacog: masked")
        direct, _ = split(params, adapted, "metacog: adapted")
        logits = jax.tree.map(lambda leaf: jnp.full_like(leaf, mask_initial), behind_masks)
        return Chosen(logits, direct, None)

    def effective(fast: Chosen, params: PyTree) -> PyTree:
        behind_masks, _ = split(params, masked)
        weights = jax.tree.map(lambda w, z: w * jax.nn.sigmoid(z), behind_masks, fast.logits)
        return merge(fast.direct, merge(weights, params))

    def init(key: Key, x: PyTree) -> tuple[PyTree, PyTree]:
        params, state = model.init(key, x)
        return {"params": params, "rule": ()}, state

    def outputs_of(fast: Chosen, meta: PyTree, state: PyTree, x: PyTree, mask: Array | None) -> PyTree:
        params = effective(fast, meta["params"])
        outputs, _ = apply_with_norm(model, "batch", params, state, x, train=True, mask=mask)
        return mask_absent_ways(outputs, fast.present)

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key | None, *, train: bool
    ) -> tuple[Chosen, PyTree, Metrics]:
        first = start(meta["params"])
        present = padded_ways(support, lambda: outputs_of(first, meta, state, support.x, support.mask))

        def support_loss(fast: Chosen, step: Array) -> Array:
            sizes = jax.tree.map(lambda z: jax.nn.sigmoid(z).sum(), fast.logits)
            outputs = outputs_of(fast._replace(present=present), meta, state, support.x, support.mask)
            fit = loss(outputs, support)
            return fit + mask_penalty * sum(jax.tree.leaves(sizes))

        fast, trace = inner_loop(support_loss, sgd(inner_lr), (), first, inner_steps, order=order)
        return fast._replace(present=present), state, {"support_loss": trace.losses[0]} if inner_steps else {}

    def predict(
        meta: PyTree,
        fast: Chosen,
        state: PyTree,
        x: PyTree,
        key: Key | None,
        *,
        train: bool,
        mask: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        return outputs_of(fast, meta, state, x, mask), state

    return Adapter(init=init, adapt=adapt, predict=predict)
