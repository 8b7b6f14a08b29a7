"""Time programs against each other, and write a report of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.flags import Flag
from experiments.workdir import write_json

OUTPUT = {"output": Flag("string", None, "JSON file to write")}


def time_in_turns(programs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of each program, [round], in turns, so that a busy machine slows all alike.

    A first round, which may compile, does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, program in programs.items():
            start_time = time.perf_counter()
            jax.block_until_ready(program())
            if turn:
                seconds[name].append(time.perf_counter() - start_time)
    return seconds


def write_report(output: str | Path | None, **facts: Any) -> None:
    """Write a JSON file with device, version of jax, and the `facts`, if there is an `output`."""
    if output:
        device = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        write_json(Path(output), device | facts)
