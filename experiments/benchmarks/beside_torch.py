"""The parts of the benchmarks beside PyTorch: a process that takes its steps, and rounds taken in turns."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.timing import OUTPUT
from experiments.errors import UsageError
from experiments.flags import Flag
from experiments.workdir import write_json

# Seconds of a dispatch of steps, by the clock and of all processors together; and facts about the program.
Line = tuple[Callable[[], tuple[float, float]], dict[str, Any]]


def jax_line(step: Callable[[Any, Any], Any], dispatch: int, state: Any, tasks: Any) -> Line:
    """Compile `dispatch` steps `(state, tasks) -> state` as one program, to be timed."""

    def take_steps(count: int, state: Any, tasks: Any) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, state: step(state, tasks), state)

    start_time = time.perf_counter()
    program = jax.jit(take_steps).lower(dispatch, state, tasks).compile()
    facts = {
        "version": jax.__version__,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "compile_seconds": time.perf_counter() - start_time,
        "temporary_mib": program.memory_analysis().temp_size_in_bytes / 2**20,
    }

    def measure() -> tuple[float, float]:
        before = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(dispatch, state, tasks))
        return time.perf_counter() - before[0], time.process_time() - before[1]

    return measure, facts


def torch_line(python: str, script: Path, setting: Mapping[str, Any], dispatch: int) -> Line:
    """Start PyTorch in a process that runs `script` and waits between the rounds of `dispatch` steps.

    The script reads the setting as a line of JSON, prints its version, and for each further line takes a step
    and prints its seconds, by the clock and of all processors.
    """
    try:
        process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise UsageError(f"--torch_python={python}: {error.strerror}; give a Python") from error

    def ask(line: str) -> str:
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):  # of one that has ended, which then answers nothing
            process.stdin.write(line + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            process.communicate()  # closes the pipes
            raise UsageError(f"--torch_python={python} cannot run {script}; see the lines above")
        return answer

    facts = {"version": ask(json.dumps(dict(setting))).strip()}

    def measure() -> tuple[float, float]:
        steps = [[float(part) for part in ask("").split()] for _ in range(dispatch)]
        clock, processors = (sum(part) for part in zip(*steps))
        return clock, processors

    return measure, facts


def compare(
    lines: Mapping[str, Line], setting: Mapping[str, Any], *, rounds: int, tasks: int, output: str | None
) -> int:
    """Take rounds of `tasks` tasks in turns, after one that does not count; print, and write to `output`.

    The ratio of the processors' time, which other work on the machine disturbs less, stands beside that of
    the clock's.
    """
    for measure, _ in lines.values():  # the first round pays for allocations
        measure()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
    for _ in range(rounds):
        for name, (measure, _) in lines.items():
            seconds[name].append(measure())

    report: dict[str, Any] = {"setting": dict(setting), "lines": {}}
    for name, (_, facts) in lines.items():
        rates = [tasks / clock for clock, _ in seconds[name]]
        report["lines"][name] = {**facts, "tasks_per_second": rates}
        print(f"{name:8}{statistics.median(rates):6.2f} tasks/s, best {max(rates):.2f}  {facts}")
    if "pytorch" in lines:
        by_round = np.array(seconds["pytorch"]) / np.array(seconds["jmeta"])
        for name, ratios in zip(("ratio", "ratio_of_processor_time"), by_round.T):
            report[name] = float(np.median(ratios))
            print(f"{name}: {report[name]:.2f} (rounds from {ratios.min():.2f} to {ratios.max():.2f})")
    if output:
        write_json(Path(output), report)
    return 0


FLAGS = {
    "dispatch": Flag("integer", 4, "meta-steps in one dispatch", least=1),
    "rounds": Flag("integer", 7, "rounds, each a dispatch of both", least=1),
    "torch_python": Flag("string", None, "a Python interpreter with PyTorch; without it jmeta runs alone"),
    **OUTPUT,
}
