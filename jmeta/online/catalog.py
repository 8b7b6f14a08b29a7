"""The continual learners by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jmeta.online.agem import agem
from jmeta.online.bgd import bgd
from jmeta.online.c_maml import c_maml
from jmeta.online.experience_replay import experience_replay
from jmeta.online.frozen import frozen
from jmeta.online.gem import gem
from jmeta.online.la_maml import la_maml, la_maml_sync
from jmeta.online.mer import mer
from jmeta.online.meta_bgd import meta_bgd
from jmeta.online.online_adam import online_adam
from jmeta.online.replay_maml import replay_maml
from jmeta.online.sgd import sgd
from jmeta.online.sparse_la_maml import sparse_la_maml
from jmeta.types import Adapter, Array, Batch, Model, Online, PyTree

LEARNERS: dict[str, Callable[..., Online]] = {
    "sgd": sgd,
    "er": experience_replay,
    "gem": gem,
    "agem": agem,
    "mer": mer,
    "la_maml": la_maml,
    "la_maml_sync": la_maml_sync,
    "replay_maml": replay_maml,
    "sparse_la_maml": sparse_la_maml,
}
# Those that learn what an adapter starts from, or let it adapt to every batch.
EPISODIC: dict[str, Callable[..., Online]] = {
    "online_adam": online_adam,
    "frozen": frozen,
    "bgd": bgd,
    "meta_bgd": meta_bgd,
    "c_maml": c_maml,
}
# An update of these is heavy and rare, and `jax.vmap` would make it at every step.
ONE_AFTER_ANOTHER = ("gem",)


def build(name: str, model: Model, loss: Callable[[PyTree, Batch], Array], **settings: Any) -> Online:
    """The continual learner called `name` with its factory's `settings`.

    Raises ValueError where there is no such learner.
    """
    if name not in LEARNERS:
        raise ValueError(f"no continual learner is called {name!r}; choose one of {', '.join(LEARNERS)}")
    return LEARNERS[name](model, loss, **settings)


def build_episodic(
    name: str, adapter: Adapter, loss: Callable[[PyTree, Batch], Array], **settings: Any
) -> Online:
    """The learner of consecutive batches called `name`, around an adapter, with its factory's `settings`.

    Raises ValueError where there is no such learner.
    """
    if name not in EPISODIC:
        raise ValueError(f"no episodic learner is called {name!r}; choose one of {', '.join(EPISODIC)}")
    return EPISODIC[name](adapter, loss, **settings)
