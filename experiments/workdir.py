"""The folder of a run: its name, and the files that are written whole into it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from experiments.settings import Experiment, foreign_flags
from jmeta.outer.files import read_plain, write_whole


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


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON file; None if it is missing, damaged or no object."""
    try:
        value = json.loads(read_plain(path))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def finished_results(workdir: Path, identity: Mapping[str, Any], steps: int | None) -> dict | None:
    """Read the results of a run with this identity that has taken all its `steps`, by default those that its
    config.json has; None if there are none."""
    config, results = read_json(workdir / "config.json"), read_json(workdir / "results.json")
    if config is None or results is None or not isinstance(results.get("eval"), dict):
        return None
    planned = config.get("steps") if steps is None else steps
    return results if config.get("identity") == identity and results.get("steps") == planned else None


def is_finished(workdir: Path) -> bool:
    """Tell whether a run has its results, of all its steps."""
    config, results = read_json(workdir / "config.json"), read_json(workdir / "results.json")
    try:
        return bool(config and results and results["steps"] >= config["steps"])
    except (KeyError, TypeError):
        return False


def strict(value: Any) -> Any:
    """Write "inf", "-inf" or "nan" for the floats of a value that JSON has no number for."""
    if isinstance(value, Mapping):
        return {name: strict(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole, see `write_whole`."""
    text = json.dumps(strict(value), indent=1, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_arrays(path: Path, values: Mapping[str, np.ndarray]) -> None:
    """Write an .npz whole, see `write_whole`."""
    write_whole(path, lambda temporary: np.savez(temporary, **values))


def provenance() -> dict[str, Any]:
    """List the command line, versions, commit and time for config.json."""
    return {
        "command": shlex.join(sys.orig_argv),
        "versions": _versions(),
        "git_commit": git_commit(),
        "git_dirty": _git("status", "--porcelain") not in (None, ""),
        "started": time_stamp(),
    }


def time_stamp() -> str:
    """Return the time of now, as in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _versions() -> dict[str, str]:
    packages = ("jmeta", "jax", "jaxlib", "flax", "optax", "diffrax", "orbax-checkpoint", "numpy")
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def git_commit() -> str | None:
    """Return the commit of these experiments, None if they are not in a repository."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str | None:
    """Return the output of a git command in the folder of these experiments, None if it fails."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
