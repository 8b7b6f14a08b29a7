"""The state that a run starts from: fresh, or with parameters that another run learned (`--init_from`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.errors import UsageError, error_text
from jmeta.data.source import Sampler
from jmeta.outer.checkpoint import CheckpointError
from jmeta.outer.load import load_all_seeds, read_config, spec_of_adapter
from jmeta.outer.seeds import seed_keys
from jmeta.types import Learner, LearnerState, PyTree, Task


def check_init_from(init_from: str | None) -> None:
    """Raise UsageError if `--init_from` is not the workdir of a run."""
    if init_from and not (Path(init_from) / "config.json").is_file():
        raise UsageError(f"--init_from={init_from}: no config.json; give the workdir of a run")


def read_origin(init_from: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Read the flags, and the spec of the adapter, of the run in a workdir. Raises as `jmeta.load` does."""
    config = read_config(init_from)
    if not isinstance(config.get("flags"), dict):
        raise UsageError(f"--init_from={init_from}: its config.json has no flags; give the workdir of a run")
    return config["flags"], spec_of_adapter(config["spec"])


def starting_state(
    learner: Learner,
    spec: Mapping[str, Any],
    train: Sampler,
    *,
    seed: int,
    seeds: int | None,
    init_from: str | None,
    initial: tuple[str, Callable[[PyTree], PyTree]] | None,
) -> LearnerState:
    """Make a checked fresh state, with the learned parameters of --init_from if it is set."""
    origin, reason, source = f"--init_from={init_from}", "", None
    if init_from:
        config = read_config(init_from)
        _check_seeds(origin, config["seeds"], seeds)
        _check_standardized(origin, config["spec"], spec)
        source = _load(origin, init_from)
        theirs, ours = _algorithm(config["spec"]), _algorithm(spec)
        reason = f"that run trained {theirs} and this is {ours}: " if theirs != ours else ""
    key = jax.random.key(seed)
    task = jax.tree.map(np.asarray, jax.device_get(draw_task(train, key)))
    state = jax.jit(lambda key: learner.init(key, task))(seed_keys(seed, seeds) if seeds else key)
    learned = {}
    if source is not None:
        learned = {"meta": source.meta, "model_state": source.model_state}
    elif initial is not None:
        origin, put = initial
        learned = {"meta": put(state.meta)}
    for name, value in learned.items():
        _check_fits(f"{origin}: {reason}", getattr(state, name), value)
    return state._replace(**jax.device_get(learned))


def _load(origin: str, workdir: str) -> LearnerState:
    """Load the learned state of all seeds; UsageError if the spec of that run cannot be built."""
    try:
        return load_all_seeds(workdir)[1]
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # of no factory
        raise UsageError(
            f"{origin}: its config.json describes no run that can be built ({error_text(error)})"
        ) from error


@jax.jit
def draw_task(sampler: Sampler, key: jax.Array) -> Task:
    """Draw a task."""
    return sampler(key)


def _algorithm(spec: Mapping[str, Any]) -> str:
    """Name what a learner's spec trains: its adapter or memory, or the head on its features."""
    adapter = spec_of_adapter(spec)
    if adapter["name"] == "standardize_inputs":
        adapter = adapter["adapter"]
    return adapter["head"]["name"] if adapter["name"] == "on_features" else adapter["name"]


def _check_seeds(origin: str, theirs: int | None, ours: int | None) -> None:
    """Raise UsageError if the runs have other numbers of seeds."""
    if theirs != ours:
        raise UsageError(
            f"{origin}: --num_seeds={theirs or 1} there and {ours or 1} here; "
            f"give --num_seeds={theirs or 1}, or another run"
        )


def _check_standardized(origin: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise UsageError if one run saw standardized images and the other images as they are."""
    names = [spec_of_adapter(spec)["name"] for spec in (theirs, ours)]
    before, now = (name == "standardize_inputs" for name in names)
    if before != now:
        advice = "give --standardize" if before else "leave --standardize out"
        raise UsageError(
            f"{origin}: that run saw {'standardized images' if before else 'images as they are'}; {advice}"
        )


def _check_fits(origin: str, ours: PyTree, theirs: PyTree) -> None:
    """Raise UsageError, with the first difference, if learned parameters are not those of this network."""
    here, there = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (ours, theirs)
    )
    for path in sorted(here.keys() | there.keys()):
        if here.get(path) == there.get(path):
            continue
        if path in here and path in there:
            difference = f"{path} has shape {there[path]} there and {here[path]} here"
        else:
            difference = f"only {'this' if path in here else 'that'} one has {path}"
        raise UsageError(
            f"{origin}{difference}; give the algorithm, the flags of the network and the ways that run had"
        )
