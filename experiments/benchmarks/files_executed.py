"""Count our files whose functions run between a command and its first update: the walk of a new reader.

    python -m experiments.benchmarks.files_executed maml --dataset=glyphs --filters=4

The arguments are an entry point and its flags. Class bodies, lambdas, comprehensions and the top level of
modules are not counted; of modules that are only imported, the number is. Prints the files, and which ODE
solvers were imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import runpy
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(importlib.util.find_spec("experiments").submodule_search_locations[0]).parent


class FirstUpdate(Exception):
    """The first line of the log is about to be written."""


def main(entry_point: str, *flags: str) -> None:
    """Run the command up to its first update and print what it executed."""
    executed: dict[str, set[str]] = {}
    tops = [str(ROOT / name) for name in ("jmeta", "experiments")]

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if event != "call" or not path.startswith(tuple(tops)) or name.startswith("<"):
            return
        if name == "write" and path.endswith("metrics_log.py"):
            raise FirstUpdate
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # which class bodies are not
            executed.setdefault(str(Path(path).relative_to(ROOT)), set()).add(name)

    with tempfile.TemporaryDirectory() as workdir, contextlib.suppress(FirstUpdate):
        once = ("--steps=1", "--eval_every=0", "--log_every=1", f"--workdir={workdir}")
        sys.argv = [entry_point, *flags, *once]
        sys.setprofile(profile)
        try:
            runpy.run_module(f"experiments.{entry_point}", run_name="__main__")
        finally:
            sys.setprofile(None)
    ours = [name for name in sys.modules if name.partition(".")[0] in ("jmeta", "experiments")]
    for path in sorted(executed):
        print(f"{path:44}{len(executed[path]):4} functions")
    solver = sorted({"diffrax", "optimistix"} & set(sys.modules)) or "none"
    print(f"{len(executed)} files executed, {len(ours)} modules imported, ODE solvers imported: {solver}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__)
    else:
        main(*sys.argv[1:])
