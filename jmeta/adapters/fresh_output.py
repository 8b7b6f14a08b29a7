"""An output layer that every task draws anew, so that no outer update can teach it a class."""

from __future__ import annotations

import jax

from jmeta.models.init import kernel_initializer
from jmeta.types import Array, Batch, Head, Key, Metrics, PyTree


def fresh_output(head: Head) -> Head:
    """Draw the last kernel of a `gradient_head` anew in every task, He-normal.

    OML and ANML draw the rows of a trajectory's classes anew before they learn them (Javed & White 2019;
    Beaulieu et al. 2020). Here labels are drawn anew too, so every row is; the bias stays, as there. The
    kernel among the meta-parameters, `meta["params"]["head"]["kernel"]`, gives the shape and has no gradient.
    """

    def fit(
        meta: PyTree, support: Batch, key: Key, *, present: Array | None, train: bool
    ) -> tuple[PyTree, Metrics]:
        key_kernel, key_fit = jax.random.split(key)
        kernel = meta["params"]["head"]["kernel"]
        drawn = kernel_initializer("he_normal")(key_kernel, kernel.shape, kernel.dtype)
        return head.fit(_with_kernel(meta, drawn), support, key_fit, present=present, train=train)

    return head._replace(fit=fit, draws_at_test=True)


def _with_kernel(meta: PyTree, kernel: Array) -> PyTree:
    params = meta["params"]
    return {**meta, "params": {**params, "head": {**params["head"], "kernel": kernel}}}
