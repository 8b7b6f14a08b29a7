"""Classifiers on top of features, other than a linear layer."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from jmeta.models.init import kernel_initializer
from jmeta.models.inputs import on_vectors
from jmeta.models.wrap import from_linen
from jmeta.types import Array, Model


class _Cosine(nn.Module):
    ways: int
    factor: float

    @nn.compact
    def __call__(self, z: Array) -> Array:
        directions = self.param("kernel", kernel_initializer("uniform"), (z.shape[-1], self.ways), z.dtype)
        norms = jnp.sqrt(jnp.square(directions).sum(0, keepdims=True))
        # The scales start at the norms of the directions, as PyTorch's weight_norm does.
        scales = self.param("scale", lambda key: norms[0].copy())
        z = z / (jnp.sqrt(jnp.square(z).sum(-1, keepdims=True) + 1e-12) + 1e-5)
        return self.factor * (z @ (directions / norms)) * scales[None]


def cosine_head(ways: int, *, factor: float = 2.0) -> Model:
    """Build a classifier by the angle between features [example, d] and a direction for each way.

    Logits [example, way] are factor * s_c <z/|z|, v_c/|v_c|> with learned directions v and lengths s (Chen et
    al., A Closer Look at Few-shot Classification, ICLR 2019: Baseline++, whose factor is 2 for up to 200
    classes). Other inputs raise ValueError.
    """
    return on_vectors("cosine_head", from_linen(_Cosine(ways, factor)))
