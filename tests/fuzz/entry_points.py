"""Entry points, each in a process that is forked from one where all is imported and nothing is started."""

import json
import os
import pkgutil
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "fuzz-programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MPLBACKEND", "agg")

from tests.fuzz.verdicts import Outcome, Verdict  # noqa: E402

NAMES = ("few_shot", "maml", "comln", "learned_optimizers", "online_few_shot",
    "online_continual", "supervised", "continual", "osaka")  # fmt: skip


def import_all() -> None:
    """Import what a run imports, so that each forked process does not."""
    for module in ("matplotlib.pyplot", "tensorboardX", "orbax.checkpoint", "diffrax", "flax.linen", "jmeta"):
        import_module(module)
    for module in pkgutil.walk_packages(import_module("jmeta").__path__, "jmeta."):
        import_module(module.name)
    for module in pkgutil.iter_modules(import_module("experiments").__path__, "experiments."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    from jax._src import xla_bridge

    assert not xla_bridge._backends, "a process that has started JAX must not be forked"


def launch(name: str, arguments: Sequence[str]) -> None:
    """Run an entry point; it exits with its status."""
    from experiments.cli import launch

    launch(import_module(f"experiments.{name}").EXPERIMENT, [name, *arguments])


def results(outcome: Outcome) -> dict[str, Any] | None:
    """Return the results that a run printed, None if it printed none."""
    lines = [line for line in outcome.printed.splitlines() if line.startswith("{")]
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        return None


def of_exit(outcome: Outcome, name: str, place: Path | None = None) -> Verdict | None:
    """Judge the exit of an entry point; None if it is 0, without a traceback, and with results.

    A refusal is one line, of status 2 or 3, that names a file in `place` if there is one; it may follow the
    two lines that every run begins with.
    """
    printed = outcome.printed
    if "Traceback (most recent call last)" in printed:
        lines = [line for line in printed[printed.index("Traceback") :].splitlines() if line[:1].strip()]
        return Verdict("traceback", " ".join(lines[1:3])[:400])
    if outcome.kind != "exit" or outcome.value not in (0, 2, 3):
        return Verdict("traceback", f"{outcome.kind} {outcome.value}; {printed[-300:]}")
    if outcome.value:
        rest = printed.partition("; loading jax\n")[2] or printed
        lines = [line for line in rest.splitlines() if line.startswith(f"experiments.{name}: ")]
        last = printed.splitlines()[-1] if printed.strip() else ""
        if len(lines) != 1 or last != lines[0] or len(last) < len(f"experiments.{name}: ") + 8:
            return Verdict("nameless refusal", f"status {outcome.value}: {printed[-300:]!r}")
        if place is not None and str(place) not in last:
            return Verdict("nameless refusal", last)
        return Verdict("refused", last)
    if results(outcome) is None:
        return Verdict("nameless refusal", f"status 0 without results: {printed[-300:]!r}")
    return None
