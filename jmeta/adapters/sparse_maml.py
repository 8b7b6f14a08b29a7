"""Sparse-MAML: learn which weights to adapt, by masks or non-negative rates for every coordinate.

von Oswald et al., Learning where to learn: Gradient sparsity in meta and continual learning, NeurIPS 2021.
All are first-order: with G the gradient of the query loss at the adapted weights and g_k those of the inner
steps, the weights have the gradient G and the masks or rates m of r(m) that of - r'(m) G sum_k g_k (eq. 5).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jmeta.adapters.gradient import gradient_adapter
from jmeta.adapters.reporting import reporting
from jmeta.models.norm_policy import Norm, is_no_norm
from jmeta.rules.masked_sgd import MaskStart, RateStart, exponential_sgd, masked_sgd, rectified_sgd
from jmeta.rules.masks import by_array, sparsity
from jmeta.types import Adapter, BatchLoss, Metrics, Model, PyTree, Rule


def sparse_maml(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 35,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    adapt_norm: bool = True,
    norm: Norm = "batch",
    mask_factor: float = 1.0,
    mask_start: MaskStart = "he_uniform",
    mask_shift: float = 0.0,
) -> Adapter:
    """Adapt the weights whose learned masks are open (eq. 4), by first-order MAML.

        theta_(k+1) = theta_k - inner_lr * 1[m >= 0] * grad L_support(theta_k),  k = 0 .. inner_steps - 1

    The scores m of the masks, one for each weight, are meta["rule"]; give them an outer optimizer of their
    own (`jmeta.by_part`).

    Args:
      model, loss: the network and `(outputs, Batch) -> scalar`, the inner loss.
      inner_lr, inner_steps, test_inner_steps, test_loss, norm: as for `jmeta.maml`.
      adapt_norm: whether scales and offsets of normalization layers, which have "norm" in their name, adapt
        and have masks; the paper's ResNet-12 keeps them.
      mask_factor, mask_start, mask_shift: see `jmeta.masked_sgd`.

    Returns:
      An `Adapter`. `info` has "sparsity", the share of masks that are closed, and in training
      "sparsity/conv_0/kernel", ... of each array.
    """
    rule = masked_sgd(inner_lr, factor=mask_factor, start=mask_start, shift=mask_shift)
    adapter = first_order(
        model, loss, rule, inner_steps, test_inner_steps, test_loss, adapt_norm=adapt_norm, norm=norm
    )
    return reporting(adapter, lambda meta: by_array("sparsity", meta["rule"], sparsity))


def sparse_relu_maml(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 35,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    adapt_norm: bool = True,
    norm: Norm = "batch",
    rate_start: RateStart = "constant",
) -> Adapter:
    """Adapt each weight at the rate max(m, 0), with a straight-through derivative of 1 (sparse-ReLU-MAML).

    m is initially `inner_lr`, or see `rate_start` of `jmeta.rectified_sgd`; all else is as for `sparse_maml`.
    `info` has "sparsity", the share of rates that are 0, and "inner_rate", their mean, in training of each
    array too.
    """
    rule = rectified_sgd(inner_lr, start=rate_start)
    adapter = first_order(
        model, loss, rule, inner_steps, test_inner_steps, test_loss, adapt_norm=adapt_norm, norm=norm
    )

    def learned(meta: PyTree) -> Metrics:
        rates = jax.tree.map(jax.nn.relu, meta["rule"])
        return by_array("sparsity", rates, sparsity) | by_array("inner_rate", rates, jnp.mean)

    return reporting(adapter, learned)


def exp_maml(
    model: Model,
    loss: BatchLoss,
    *,
    inner_lr: float = 0.1,
    inner_steps: int = 35,
    test_inner_steps: int | None = None,
    test_loss: BatchLoss | None = None,
    adapt_norm: bool = True,
    norm: Norm = "batch",
    rate_start: RateStart = "constant",
) -> Adapter:
    """Adapt each weight at the rate exp(m), which is never 0 (exp-MAML).

    exp(m) is initially `inner_lr`, or see `rate_start` of `jmeta.rules.masked_sgd.exponential_sgd`; all else
    is as for `sparse_maml`. `info` has "inner_rate", the mean rate, in training of each array too.
    """
    rule = exponential_sgd(inner_lr, start=rate_start)
    adapter = first_order(
        model, loss, rule, inner_steps, test_inner_steps, test_loss, adapt_norm=adapt_norm, norm=norm
    )
    return reporting(
        adapter, lambda meta: by_array("inner_rate", jax.tree.map(jnp.exp, meta["rule"]), jnp.mean)
    )


def first_order(
    model: Model,
    loss: BatchLoss,
    rule: Rule,
    steps: int,
    test_steps: int | None,
    test_loss: BatchLoss | None,
    *,
    adapt_norm: bool,
    norm: Norm,
) -> Adapter:
    """Adapt the whole network, with or without its normalization layers, by a rule in first order."""
    return gradient_adapter(
        model,
        loss,
        rule,
        steps,
        test_steps=test_steps,
        test_loss=test_loss,
        adapted=is_adapted(adapt_norm),
        order="first",
        remat="none",
        norm=norm,
    )


def is_adapted(adapt_norm: bool) -> Callable[[str], bool]:
    """Make the predicate on paths that selects all parameters, or all but those of normalization layers."""
    return lambda path: adapt_norm or is_no_norm(path)
