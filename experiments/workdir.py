"""The folder of a run: its name, and the files that are written whole into it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import UsageError
from experiments.settings import Experiment, foreign_flags


def run_identity(experiment: Experiment, settings: Mapping[str, Any]) -> dict[str, Any]:
    """List the experiment and the flags that change its numbers, but for those of other algorithms."""
    foreign = foreign_flags(experiment, settings.get("algorithm"))
    own = {name: flag for name, flag in experiment.flags.items() if name not in foreign}
    flags = {name: settings[name] for name, flag in own.items() if flag.identity}
    if flags.get("dataset") in ("folder", "features") and settings["data_dir"]:
        flags["data_dir"] = str(Path(settings["data_dir"]).resolve())  # here the folder is the data
    return json.loads(json.dumps(strict({"experiment": experiment.name, **flags})))


def default_workdir(experiment: Experiment, settings: Mapping[str, Any]) -> Path:
    """Return `--workdir`, or runs/<experiment>/<hash of the identity>."""
    if settings.get("workdir"):
        return Path(settings["workdir"])
    digest = hashlib.sha256(json.dumps(run_identity(experiment, settings), sort_keys=True).encode())
    return Path("runs") / experiment.name / digest.hexdigest()[:12]


def make_workdir(workdir: Path) -> None:
    """Make the folder of a run. Raises UsageError if there is a file in its place."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--workdir={workdir}: there is a file in its place; give a folder") from None


def finished_results(workdir: Path, identity: Mapping[str, Any], steps: int | None) -> dict | None:
    """Read the results of a run with this identity that has taken all its `steps`, by default those that its
    config.json has; None if there are none."""
    try:
        config = json.loads((workdir / "config.json").read_text())
        results = json.loads((workdir / "results.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or not isinstance(results, dict):
        return None
    planned = config.get("steps") if steps is None else steps
    return results if config.get("identity") == identity and results.get("steps") == planned else None


def is_finished(workdir: Path) -> bool:
    """Tell whether a run has its results, of all its steps."""
    try:
        planned = json.loads((workdir / "config.json").read_text())["steps"]
        return json.loads((workdir / "results.json").read_text())["steps"] >= planned
    except (OSError, ValueError, KeyError, TypeError):
        return False


def strict(value: Any) -> Any:
    """Write "inf", "-inf" or "nan" for the floats of a value that JSON has no number for."""
    if isinstance(value, Mapping):
        return {name: strict(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole: under a temporary name, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(strict(value), indent=1, allow_nan=False) + "\n")
    temporary.replace(path)


def write_arrays(path: Path, values: Mapping[str, np.ndarray]) -> None:
    """Write an .npz whole: under a temporary name, then renamed."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(temporary, **values)
    temporary.replace(path)


def provenance() -> dict[str, Any]:
    """List versions, commit and time for config.json."""
    return {
        "versions": _versions(),
        "git_commit": git_commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _versions() -> dict[str, str]:
    packages = ("jmeta", "jax", "jaxlib", "flax", "optax", "diffrax", "orbax-checkpoint", "numpy")
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def git_commit() -> str | None:
    """Return the commit of these experiments, None if they are not in a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
