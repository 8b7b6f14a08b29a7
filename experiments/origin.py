"""The state that a run starts from: fresh, or with parameters that another run learned (`--init_from`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.errors import UsageError
from jmeta.data.source import Sampler
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
    key = jax.random.key(seed)
    task = jax.tree.map(np.asarray, jax.device_get(draw_task(train, key)))
    state = jax.jit(lambda key: learner.init(key, task))(seed_keys(seed, seeds) if seeds else key)
    origin, learned = f"--init_from={init_from}", {}
    if init_from:
        _check_standardized(origin, read_config(init_from)["spec"], spec)
        _, source, _ = load_all_seeds(init_from)
        learned = {"meta": source.meta, "model_state": source.model_state}
    elif initial is not None:
        origin, put = initial
        learned = {"meta": put(state.meta)}
    for name, value in learned.items():
        _check_fits(origin, getattr(state, name), value)
    return state._replace(**jax.device_get(learned))


@jax.jit
def draw_task(sampler: Sampler, key: jax.Array) -> Task:
    """Draw a task."""
    return sampler(key)


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
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (ours, theirs)
    )
    for path in sorted(here.keys() | there.keys()):
        if here.get(path) != there.get(path):
            raise UsageError(
                f"{origin}: {path} has shape {there.get(path)} there and {here.get(path)} here; "
                "give the flags of the network and the ways that run had"
            )
