"""An output layer that every task draws anew, so that no outer update can teach it a class."""

from __future__ import annotations

import jax

from jmeta.models.layers import kernel_initialiser
from jmeta.types import Adapter, Array, Batch, Key, Metrics, PyTree


def fresh_output(adapter: Adapter) -> Adapter:
    """The adapter of a (body, head) pair whose head's last kernel is He-normal anew in every task.

    OML and ANML draw the rows of a trajectory's classes anew before they learn them (Javed & White 2019;
    Beaulieu et al. 2020). Here labels are drawn anew too, so every row is; the bias stays, as there. The
    kernel among the meta-parameters, `meta["params"]["head"]["head"]["kernel"]`, gives the shape and has no
    gradient.
    """

    def adapt(
        meta: PyTree, state: PyTree, support: Batch, key: Key, *, train: bool
    ) -> tuple[PyTree, PyTree, Metrics]:
        key_kernel, key_adapt = jax.random.split(key)
        kernel = meta["params"]["head"]["head"]["kernel"]
        drawn = kernel_initialiser("he_normal")(key_kernel, kernel.shape, kernel.dtype)
        return adapter.adapt(_with_kernel(meta, drawn), state, support, key_adapt, train=train)

    return adapter._replace(adapt=adapt)


def _with_kernel(meta: PyTree, kernel: Array) -> PyTree:
    head = meta["params"]["head"]
    head = {**head, "head": {**head["head"], "kernel": kernel}}
    return {**meta, "params": {**meta["params"], "head": head}}
