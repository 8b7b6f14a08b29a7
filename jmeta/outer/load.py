"""A finished run as an object."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.files import read_plain
from jmeta.outer.seeds import seed_keys, take_seed
from jmeta.registry import build
from jmeta.types import Adapter, Learner, LearnerState, Memory, PyTree, Rule


def build_learner(spec: Mapping[str, Any], mesh: Mesh | None = None) -> tuple[Adapter | Memory, Learner]:
    """Build the adapter, or memory, and the learner of a run from its spec (`jmeta.build`, kind "learner").

    A learner around a learner is {"name": "vmap_seeds", "learner": {...}}; `mesh` goes to the innermost.
    """
    if "learner" in spec:
        adapter, learner = build_learner(spec["learner"], mesh)
        return adapter, build({**spec, "learner": learner}, "learner")
    adapter = build(spec["adapter"])
    return adapter, build({**spec, "adapter": adapter}, "learner", mesh=mesh)


def load(workdir: str | Path, *, seed: int = 0) -> tuple[Adapter | Memory, LearnerState]:
    """Load the adapter, or memory, and the learned state of a run, the best by validation if there was any.

    Args:
      workdir: the run's directory, with its config.json and checkpoints.
      seed: of a run of several seeds side by side, the index of the one to load.

    Returns:
      `(adapter, state)`: `jmeta.adapt` and `jmeta.predict` take both, and a support set of one's own;
      `jmeta.unroll(memory, state.meta, state.model_state, stream, train=False)` unrolls a memory.

    Raises:
      FileNotFoundError: if the directory holds no run, or a run without a checkpoint.
      ValueError: if its config.json is damaged or has no spec, or for a seed that was not trained.
    """
    adapter, state, seeds = load_all_seeds(workdir)
    if not 0 <= seed < (seeds or 1):
        raise ValueError(f"load: seed={seed}; {workdir} trained {seeds or 1}, counted from 0")
    return adapter, take_seed(state, seed) if seeds else state


def load_rule(workdir: str | Path, *, seed: int = 0) -> tuple[Rule, PyTree]:
    """Load the inner rule that a run learned, as `jmeta.inner_loop` and `jmeta.as_optax` take it.

    Args:
      workdir, seed: as for `load`.

    Returns:
      `(rule, hyper)`, with what was learned of the rule in `hyper`.

    Raises:
      FileNotFoundError: if the directory holds no run, or a run without a checkpoint.
      ValueError: if its config.json is damaged, or for a run that learned no rule.
    """
    rule = next(_parts(read_config(workdir)["spec"], "rule"), None)
    hyper: PyTree = ()
    if rule:
        meta = load(workdir, seed=seed)[1].meta
        hyper = meta["rule"] if "rule" in meta else meta["head"]["rule"]
    if rule is None or not jax.tree.leaves(hyper):
        raise ValueError(
            f"load_rule: {workdir} learned no inner rule; expected a run with one, such as one of "
            "experiments.learned_optimizers with --algorithm=turtle"
        )
    return build(rule, "rule"), hyper


def load_all_seeds(workdir: str | Path) -> tuple[Adapter | Memory, LearnerState, int | None]:
    """Load as `load` does, with the state of all seeds side by side and their number; None for a run of one.

    Raises as `load` does.
    """
    config = read_config(workdir)
    adapter, learner = build_learner(config["spec"])
    example, seeds = config["input"], config["seeds"]
    x = jax.ShapeDtypeStruct((1, *example["shape"]), jnp.dtype(example["dtype"]))
    key = jax.eval_shape(lambda: seed_keys(0, seeds) if seeds else jax.random.key(0))
    checkpoints = Checkpoints.reader(Path(workdir) / "checkpoints")
    return adapter, checkpoints.restore_best(jax.eval_shape(learner.init, key, x)), seeds


def read_config(workdir: str | Path) -> dict[str, Any]:
    """Read config.json of a run: its "spec", "input" {"shape", "dtype"} of one example, "seeds" or None, ...

    Raises as `load` does.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir}: no config.json; expected the workdir of a run of jmeta")
    try:
        config = _with_infinities(json.loads(read_plain(path)))
        older = "recipe" in config and "spec" not in config
        whole = older or _is_whole(config)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or not of a run that can be loaded ({error!r})") from error
    if older:
        raise ValueError(f"{path}: written by an older jmeta, whose runs do not load; train it anew")
    if not whole:
        raise ValueError(f"{path}: damaged, or not of a run that can be loaded")
    return config


def _is_whole(config: Mapping[str, Any]) -> bool:
    """Test the parts of config.json that a run is loaded by; raises if one is missing or has no parts."""
    names = [config["spec"]["name"], spec_of_adapter(config["spec"])["name"]]
    shape, dtype = config["input"]["shape"], config["input"]["dtype"]
    seeds = config["seeds"]
    jnp.dtype(dtype)
    return (
        all(isinstance(name, str) for name in names)
        and isinstance(shape, list)
        and all(type(size) is int and size > 0 for size in shape)
        and isinstance(dtype, str)
        and (seeds is None or (type(seeds) is int and seeds >= 1))
    )


def spec_of_adapter(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Find the spec of the adapter, or memory, in that of a learner."""
    return spec_of_adapter(spec["learner"]) if "learner" in spec else spec["adapter"]


def _parts(spec: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    """Find the parts of a spec that are called `key`, outermost first."""
    for name, value in spec.items():
        if isinstance(value, Mapping):
            if name == key:
                yield value
            yield from _parts(value, key)


def _with_infinities(value: Any) -> Any:
    """Read "inf" as infinity, for which JSON has no number."""
    if isinstance(value, dict):
        return {name: _with_infinities(entry) for name, entry in value.items()}
    return math.inf if value == "inf" else value
