"""An outer optimizer of two: one for the weights, and one for what an inner rule learns."""

from __future__ import annotations

import jax
import optax

from jmeta.types import PyTree


def by_part(
    tx: optax.GradientTransformation, rule_tx: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Optimize the learned parts of an inner rule (rates, masks) by `rule_tx`, and all else by `tx`.

    The learned parts are the meta-parameters below a key "rule". Limits on the gradient hold within each of
    the two. Raises ValueError, at `init`, if there are none.
    """

    def labels(meta: PyTree) -> PyTree:
        of = jax.tree_util.tree_map_with_path(lambda path, _: _label(path), meta)
        if "rule" not in jax.tree.leaves(of):
            raise ValueError(
                "by_part: the inner rule of these meta-parameters learns nothing; give one optimizer"
            )
        return of

    return optax.partition({"weights": tx, "rule": rule_tx}, labels)


def _label(path: tuple) -> str:
    keys = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    return "rule" if "rule" in keys else "weights"
