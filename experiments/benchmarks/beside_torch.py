"""What the benchmarks beside PyTorch share: a process that takes its steps, and rounds taken in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.common import Flag, UsageError, write_json

Line = tuple[
    Callable[[], float], dict[str, Any]
]  # seconds of a dispatch of steps, and facts about the program


def jmeta_line(step: Callable[[Any, Any], Any], settings: SimpleNamespace, state: Any, tasks: Any) -> Line:
    """jmeta's line: `dispatch` steps `(state, tasks) -> state` in one compiled program."""
    import jax

    def dispatch(count: int, state: Any, tasks: Any) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, state: step(state, tasks), state)

    begin = time.perf_counter()
    program = jax.jit(dispatch).lower(settings.dispatch, state, tasks).compile()
    facts = {
        "version": jax.__version__,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "compile_seconds": time.perf_counter() - begin,
        "temporary_mib": program.memory_analysis().temp_size_in_bytes / 2**20,
    }

    def measure() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(program(settings.dispatch, state, tasks))
        return time.perf_counter() - begin

    return measure, facts


def torch_line(settings: SimpleNamespace, script: Path) -> Line:
    """PyTorch's line, in a process that runs `script` and waits between the rounds.

    The script reads the settings as a line of JSON, prints its version, and for each further line takes a
    step and prints its seconds.
    """
    command = [settings.torch_python, str(script)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(line: str) -> str:
        assert process.stdin and process.stdout
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise UsageError(
                f"--torch_python={settings.torch_python} cannot run {script}; see the lines above"
            )
        return answer

    facts = {"version": ask(json.dumps(vars(settings))).strip()}
    return lambda: sum(float(ask("")) for _ in range(settings.dispatch)), facts


def compare(settings: SimpleNamespace, lines: dict[str, Line]) -> int:
    """Take `rounds` rounds in turns after one that does not count; print, and write --output."""
    for measure, _ in lines.values():  # the first round pays for allocations
        measure()
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(settings.rounds):
        for name, (measure, _) in lines.items():
            seconds[name].append(measure())

    report: dict[str, Any] = {"setting": vars(settings), "lines": {}}
    for name, (_, facts) in lines.items():
        rates = [settings.meta_batch * settings.dispatch / s for s in seconds[name]]
        report["lines"][name] = {**facts, "tasks_per_second": rates}
        print(f"{name:8}{statistics.median(rates):6.2f} tasks/s, best {max(rates):.2f}  {facts}")
    if "pytorch" in lines:
        ratios = [theirs / ours for ours, theirs in zip(seconds["jmeta"], seconds["pytorch"])]
        report["ratio"] = statistics.median(ratios)
        print(f"jmeta / pytorch {report['ratio']:.2f} (rounds from {min(ratios):.2f} to {max(ratios):.2f})")
    if settings.output:
        write_json(Path(settings.output), report)
    return 0


FLAGS = {
    "dispatch": Flag("integer", 4, "meta-steps in one dispatch"),
    "rounds": Flag("integer", 7, "rounds, each a dispatch of both"),
    "torch_python": Flag("string", None, "a Python interpreter with PyTorch; jmeta alone if not given"),
    "output": Flag("string", None, "JSON file to write"),
}
