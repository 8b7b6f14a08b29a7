"""OML: representations that a stream of examples does not overwrite.

Javed & White, Meta-Learning Representations for Continual Learning, NeurIPS 2019; as a baseline of Babu et
al., NeurIPS 2021, section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from jmeta.adapters.fresh_output import fresh_output
from jmeta.adapters.gradient import Loss, anil
from jmeta.inner.gradient import Order, Remat
from jmeta.losses import cross_entropy
from jmeta.models.conv_encoder import conv_encoder
from jmeta.models.mlp import mlp
from jmeta.types import Adapter, Rule


def oml(
    outputs: int,
    rule: Rule,
    *,
    loss: Loss = cross_entropy,
    filters: int = 256,
    strides: Sequence[int] = (1, 1, 1, 2),
    padded: bool = False,
    hidden: int = 1024,
    order: Order = "exact",
    remat: Remat = "step",
) -> Adapter:
    """A convolutional representation, and two fully connected layers that learn one example at a time.

    The inner loop takes one step of `rule` on the fully connected layers for each example of the support
    stream, in its order; the outer loop learns everything from the loss on a query set of all the stream's
    classes, which measures what was forgotten. The output kernel is drawn anew in every task
    (`fresh_output`).

    Args:
      outputs: number of label slots.
      rule: the inner rule, `sgd(0.03)` in the paper's code.
      loss: `(outputs, Batch) -> scalar`, the inner loss of one example.
      filters, strides, padded: of the 3x3 convolutions, each followed by ReLU, without normalisation; images
        [example, height, width, channel] become features once a task.
      hidden: width of the first fully connected layer.
      order, remat: see `jmeta.inner_loop`.

    Returns:
      An `Adapter` whose support is a `Stream` (or a `Batch` in the order of learning).
    """
    plain = (False,) * len(strides)
    body = conv_encoder(
        filters=filters, pooled=plain, strides=strides, padded=padded, groups=None, initialise="he_normal"
    )
    head = mlp(widths=(hidden,), outputs=outputs, initialise="he_normal")
    return fresh_output(anil(body, head, loss, rule, None, order=order, remat=remat))
