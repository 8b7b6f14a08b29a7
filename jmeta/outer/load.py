"""A finished run as an object."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jmeta.adapters import catalog
from jmeta.memory import catalog as memories
from jmeta.outer.checkpoint import Checkpoints
from jmeta.outer.estimators import clamped
from jmeta.outer.learner import learner
from jmeta.outer.optimiser import optimiser
from jmeta.outer.seeds import seed_keys, side_by_side, take_seed
from jmeta.outer.skipping import skipping
from jmeta.outer.standardised import Adapting, standardised
from jmeta.rules import catalog as rules
from jmeta.types import Adapter, Learner, LearnerState, Memory, PyTree, Rule


def build(recipe: Mapping[str, Any], mesh: Mesh | None = None) -> tuple[Adapter | Memory, Learner]:
    """Adapter, or memory, and learner from a run's recipe, a dictionary of plain values:

    {"adapter": see `jmeta.adapters.catalog.build`, "optimiser": see `jmeta.outer.optimiser.optimiser`,
    "chunk": int or None, "input": {"shape": of one example, "dtype": name, and the "mean" and "std" of each
    channel where the learner is to see standardised images}}; and where they differ from the defaults
    "reduce": "sum", "clamp": settings of `jmeta.outer.estimators.clamped`, "seeds": how many train side by
    side, "skip_nonfinite": True, "subtasks": how many a continual task has. Of a memory that plays streams
    "memory" (see `jmeta.memory.catalog.build`), "shots", "remat_every" and "truncate_every" stand in the
    adapter's place.
    """
    adapted, made = (_with_memory if "memory" in recipe else _with_adapter)(recipe, mesh)
    made = skipping(made) if recipe.get("skip_nonfinite") else made
    return adapted, side_by_side(made) if recipe.get("seeds") else made


def _with_memory(recipe: Mapping[str, Any], mesh: Mesh | None) -> tuple[Memory, Learner]:
    memory = _scaled(memories.build(**recipe["memory"]), recipe)
    return memory, learner(
        memory,
        None,
        optimiser(**recipe["optimiser"]),
        metrics=memories.metric(recipe["shots"]),
        mesh=mesh,
        chunk=recipe["chunk"],
        remat_every=recipe["remat_every"],
        truncate_every=recipe["truncate_every"],
    )


def _with_adapter(recipe: Mapping[str, Any], mesh: Mesh | None) -> tuple[Adapter, Learner]:
    adapter_settings = dict(recipe["adapter"])
    loss_name, smoothing = adapter_settings["loss_name"], adapter_settings["smoothing"]
    adapter = _scaled(catalog.build(**adapter_settings), recipe)
    clamp = recipe.get("clamp")
    made = learner(
        adapter,
        catalog.loss(loss_name, smoothing=smoothing),
        optimiser(**recipe["optimiser"]),
        metrics=catalog.metric(loss_name, subtasks=recipe.get("subtasks")),
        test_loss=catalog.loss(loss_name),
        task_grad=clamped(**clamp) if clamp else None,
        reduce=recipe.get("reduce", "mean"),
        mesh=mesh,
        chunk=recipe["chunk"],
    )
    return adapter, made


def _scaled(adapter: Adapting, recipe: Mapping[str, Any]) -> Adapting:
    scale = recipe.get("input", {})
    return standardised(adapter, scale["mean"], scale["std"]) if "std" in scale else adapter


def abstract_state(made: Learner, recipe: Mapping[str, Any]) -> LearnerState:
    """Shapes and types of a learner's state, as a target to restore into."""
    shape = (1, *recipe["input"]["shape"])
    x = jax.ShapeDtypeStruct(shape, jnp.dtype(recipe["input"]["dtype"]))
    seeds = recipe.get("seeds")
    key = jax.eval_shape(lambda: seed_keys(0, seeds) if seeds else jax.random.key(0))
    return jax.eval_shape(made.init, key, x)


def load(workdir: str | Path, *, seed: int = 0) -> tuple[Adapter | Memory, LearnerState]:
    """The adapter, or memory, and the learned state of a run, best by validation where it was validated.

    Args:
      workdir: the run's directory, with its config.json and checkpoints.
      seed: of a run of several seeds side by side, the index of the one to load.

    Returns:
      `(adapter, state)`: `adapter.adapt(state.meta, state.model_state, support, key, train=False)` adapts it,
      `jmeta.unroll(memory, state.meta, state.model_state, stream, train=False)` plays a memory.

    Raises:
      FileNotFoundError: where the directory holds no run, or a run without a checkpoint.
      ValueError: where its config.json is damaged.
    """
    adapter, state, seeds = load_whole(workdir)
    if not 0 <= seed < (seeds or 1):
        raise ValueError(f"load: seed={seed}; {workdir} trained {seeds or 1}, counted from 0")
    return adapter, take_seed(state, seed) if seeds else state


def load_rule(workdir: str | Path, *, seed: int = 0) -> tuple[Rule, PyTree]:
    """The inner rule that a run learned, as `jmeta.inner_loop` and `jmeta.as_optax` take it.

    Args:
      workdir, seed: as for `load`.

    Returns:
      `(rule, hyper)`, with what was learned of the rule in `hyper`.

    Raises:
      FileNotFoundError: where the directory holds no run, or a run without a checkpoint.
      ValueError: where its config.json is damaged, and for a run that learned no rule.
    """
    settings = read_recipe(workdir).get("adapter", {}).get("rule")
    hyper = load(workdir, seed=seed)[1].meta["rule"] if settings else ()
    if not jax.tree.leaves(hyper):
        raise ValueError(
            f"load_rule: {workdir} learned no inner rule; expected a run with one, such as one of "
            "experiments.learned_optimizers with --algorithm=turtle"
        )
    return rules.build(**settings), hyper


def load_whole(workdir: str | Path) -> tuple[Adapter | Memory, LearnerState, int | None]:
    """As `load`, with the state of all seeds side by side and their number; None of a run of one."""
    recipe = read_recipe(workdir)
    adapter, made = build(recipe)
    checkpoints = Checkpoints.reader(Path(workdir) / "checkpoints")
    return adapter, checkpoints.restore_best(abstract_state(made, recipe)), recipe.get("seeds")


def read_recipe(workdir: str | Path) -> dict[str, Any]:
    """The recipe of a run, see `build`, from its config.json; raises as `load` does."""
    directory = Path(workdir)
    config = directory / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{directory}: no config.json; expected the workdir of a run of jmeta")
    try:
        return _with_infinities(json.loads(config.read_text())["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config}: damaged, or not of a run of jmeta ({error!r})") from error


def _with_infinities(value: Any) -> Any:
    """A recipe from JSON, which has no number for infinity: "inf" stands for it."""
    if isinstance(value, dict):
        return {name: _with_infinities(entry) for name, entry in value.items()}
    return math.inf if value == "inf" else value
