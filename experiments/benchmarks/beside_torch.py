"""What the benchmarks beside PyTorch share: a process that takes its steps, and rounds taken in turns."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments.common import Flag, UsageError, check_numbers, write_json

# Seconds of a dispatch of steps, by the clock and of all processors together; and facts about the program.
Line = tuple[Callable[[], tuple[float, float]], dict[str, Any]]


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

    def measure() -> tuple[float, float]:
        begin = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(settings.dispatch, state, tasks))
        return time.perf_counter() - begin[0], time.process_time() - begin[1]

    return measure, facts


def torch_line(settings: SimpleNamespace, script: Path) -> Line:
    """PyTorch's line, in a process that runs `script` and waits between the rounds.

    The script reads the settings as a line of JSON, prints its version, and for each further line takes a
    step and prints its seconds, by the clock and of all processors.
    """
    command = [settings.torch_python, str(script)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise UsageError(
            f"--torch_python={settings.torch_python}: {error.strerror}; give a Python"
        ) from error

    def ask(line: str) -> str:
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):  # of one that has ended, which then answers nothing
            process.stdin.write(line + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            process.communicate()  # closes the pipes
            raise UsageError(
                f"--torch_python={settings.torch_python} cannot run {script}; see the lines above"
            )
        return answer

    facts = {"version": ask(json.dumps(vars(settings))).strip()}

    def measure() -> tuple[float, float]:
        steps = [[float(part) for part in ask("").split()] for _ in range(settings.dispatch)]
        clock, processors = (sum(part) for part in zip(*steps))
        return clock, processors

    return measure, facts


def compare(settings: SimpleNamespace, lines: dict[str, Line]) -> int:
    """Take `rounds` rounds in turns after one that does not count; print, and write --output.

    The ratio of the processors' time, which other work on the machine disturbs less, stands beside that of
    the clock's.
    """
    check_numbers(vars(settings), positive=("rounds", "dispatch"), not_negative=())
    for measure, _ in lines.values():  # the first round pays for allocations
        measure()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
    for _ in range(settings.rounds):
        for name, (measure, _) in lines.items():
            seconds[name].append(measure())

    report: dict[str, Any] = {"setting": vars(settings), "lines": {}}
    for name, (_, facts) in lines.items():
        rates = [settings.meta_batch * settings.dispatch / clock for clock, _ in seconds[name]]
        report["lines"][name] = {**facts, "tasks_per_second": rates}
        print(f"{name:8}{statistics.median(rates):6.2f} tasks/s, best {max(rates):.2f}  {facts}")
    if "pytorch" in lines:
        rounds = np.array(seconds["pytorch"]) / np.array(seconds["jmeta"])
        for name, ratios in zip(("ratio", "ratio_of_processor_time"), rounds.T):
            report[name] = float(np.median(ratios))
            print(f"{name}: {report[name]:.2f} (rounds from {ratios.min():.2f} to {ratios.max():.2f})")
    if settings.output:
        write_json(Path(settings.output), report)
    return 0


FLAGS = {
    "dispatch": Flag("integer", 4, "meta-steps in one dispatch"),
    "rounds": Flag("integer", 7, "rounds, each a dispatch of both"),
    "torch_python": Flag("string", None, "a Python interpreter with PyTorch; jmeta alone if not given"),
    "output": Flag("string", None, "JSON file to write"),
}
