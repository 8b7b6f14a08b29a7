"""A run in several processes, as --distributed asks for it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jmeta.outer.cluster import start_distributed

# Flags that may differ from host to host.
_OF_A_HOST = ("data_dir", "workdir", "init_from", "max_minutes")


def join(name: str, settings: Mapping[str, Any], workdir: Path) -> None:
    """Join the other processes of the experiment `name` with these `settings`; see `start_distributed`."""
    _keep_stdout_for_python()
    flags = {flag: value for flag, value in settings.items() if flag not in _OF_A_HOST}
    start_distributed(
        program=json.dumps([name, flags], sort_keys=True),
        prefix=f"experiments.{name}: ",
        advice=lambda: _how_to_go_on(workdir),
    )


def _how_to_go_on(workdir: Path) -> str:
    steps = []
    with contextlib.suppress(OSError):
        steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]
    if not steps:
        return "it has no checkpoint yet: the same command, given again in every process, starts anew"
    place = f"the checkpoint of step {max(steps)} in {workdir}"
    return f"the same command, given again in every process, goes on from {place}"


def _keep_stdout_for_python() -> None:
    """Let standard output have the results alone: libraries of C++, such as Gloo, write to standard error."""
    try:
        sys.stdout.flush()
        own = os.dup(sys.stdout.fileno())
    except (OSError, io.UnsupportedOperation):
        return
    os.dup2(2, sys.stdout.fileno())
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdout = os.fdopen(own, "w", encoding=encoding, errors=errors, buffering=1 if os.isatty(own) else -1)
