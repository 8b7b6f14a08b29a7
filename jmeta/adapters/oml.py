"""OML: representations that a stream of examples does not overwrite.

Javed & White, Meta-Learning Representations for Continual Learning, NeurIPS 2019; as a baseline of Babu et
al., NeurIPS 2021, section 4.3.

Deviations. The 1,000-way protocol of the original is not built.
"""

from __future__ import annotations

from collections.abc import Sequence

from jmeta.adapters.fresh_output import fresh_output
from jmeta.adapters.heads.anil import gradient_head
from jmeta.adapters.on_features import on_features
from jmeta.inner.gradient import Order, Remat
from jmeta.losses import cross_entropy
from jmeta.models.conv_encoder import conv_encoder
from jmeta.models.mlp import mlp
from jmeta.types import Adapter, BatchLoss, Rule


def oml(
    outputs: int,
    rule: Rule,
    *,
    test_rule: Rule | None = None,
    loss: BatchLoss = cross_entropy,
    filters: int = 256,
    strides: Sequence[int] = (1, 1, 1, 2),
    padded: bool = False,
    hidden: int = 1024,
    order: Order = "exact",
    remat: Remat = "step",
) -> Adapter:
    """Learn one example at a time by two fully connected layers on a convolutional representation.

    The inner loop takes one step of `rule` on the fully connected layers for each example of the support
    stream, in its order; the outer loop learns everything from the loss on a query set of all the stream's
    classes, which measures what was forgotten. The output kernel is drawn anew in every task
    (`fresh_output`).

    Args:
      outputs: number of label slots.
      rule: the inner rule, `sgd(0.03)` in the paper's code.
      test_rule: inner rule at evaluation, `rule` if None.
      loss: `(outputs, Batch) -> scalar`, the inner loss of one example.
      filters, strides, padded: of the 3x3 convolutions, each followed by ReLU, without normalization; images
        [example, height, width, channel] become features once a task.
      hidden: width of the first fully connected layer.
      order, remat: see `jmeta.inner_loop`.

    Returns:
      An `Adapter` whose support is a `Stream` (or a `Batch` in the order of learning).
    """
    plain = (False,) * len(strides)
    body = conv_encoder(
        filters=filters, pooled=plain, strides=strides, padded=padded, groups=None, initialize="he_normal"
    )
    head = mlp(widths=(hidden,), outputs=outputs, initialize="he_normal")
    fitted = gradient_head(head, loss, rule, None, test_rule=test_rule, order=order, remat=remat)
    return on_features(body, fresh_output(fitted), outputs)
