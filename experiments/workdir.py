"""The folder of a run: making it, telling whether its run is finished, and what each run writes into it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import UsageError


def make_workdir(workdir: Path) -> None:
    """Make the folder of a run. Raises UsageError where there is a file in its place."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--workdir={workdir}: there is a file in its place; give a folder") from None


def finished_results(workdir: Path, identified: dict[str, Any], steps: int) -> dict[str, Any] | None:
    """The results of a run with this identity that has taken all its steps."""
    try:
        config = json.loads((workdir / "config.json").read_text())
        results = json.loads((workdir / "results.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or not isinstance(results, dict):
        return None
    same = config.get("identity") == json.loads(json.dumps(identified))
    return results if same and results.get("steps") == steps else None


def write_arrays(path: Path, values: dict[str, np.ndarray]) -> None:
    """Write an .npz whole: under a temporary name, then renamed."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(temporary, **values)
    temporary.replace(path)


def provenance() -> dict[str, Any]:
    """What config.json says of versions, device, commit and time."""
    return {
        "versions": _versions(),
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "git_commit": git_commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _versions() -> dict[str, str]:
    packages = ("jmeta", "jax", "jaxlib", "flax", "optax", "diffrax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_commit() -> str | None:
    """The commit of these experiments, None where they are not in a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def say(text: str) -> None:
    """Print a line for people, once whatever the number of processes."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr)
