"""The gain of seeds side by side over seeds one after another, with start-up and without.

Runs experiments.learned_optimizers on sine waves once with --num_seeds=N and N times with one seed, each in a
process of its own without a compilation cache, and compares the whole commands' time and their training time.

python -m experiments.benchmarks.seeds [--num_seeds=5] [--steps=500] [--algorithms=maml,turtle]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

from experiments import flags
from experiments.benchmarks.timing import OUTPUT
from experiments.cli import launch
from experiments.flags import Flag
from experiments.settings import Experiment, Settings
from experiments.workdir import write_json


def main(settings: Settings) -> int:
    """Measure each algorithm and print the ratios."""
    rows = {}
    print(f"{'algorithm':<20}{'together s':>22}{'one by one s':>22}{'gain':>8}{'in training':>13}")
    for algorithm in settings.algorithms.split(","):
        with tempfile.TemporaryDirectory() as folder:
            together = timed(algorithm, settings.steps, f"{folder}/all", f"--num_seeds={settings.num_seeds}")
            single = [
                timed(algorithm, settings.steps, f"{folder}/{seed}", f"--seed={seed}")
                for seed in range(settings.num_seeds)
            ]
        apart = tuple(map(sum, zip(*single)))
        gains = [alone / joint for alone, joint in zip(apart, together)]
        rows[algorithm] = {"together": together, "one_by_one": apart, "gain": gains}
        cells = [f"{whole:.1f} ({train:.1f} training)" for whole, train in (together, apart)]
        print(f"{algorithm:<20}{cells[0]:>22}{cells[1]:>22}{gains[0]:8.2f}{gains[1]:13.2f}", flush=True)
    if settings.output:
        report = {"device": jax.devices()[0].device_kind, "seeds": settings.num_seeds, "rows": rows}
        write_json(Path(settings.output), report)
    return 0


def timed(algorithm: str, steps: int, workdir: str, *arguments: str) -> tuple[float, float]:
    """Measure the seconds of a whole command, and of its training alone."""
    command = [
        sys.executable, "-m", "experiments.learned_optimizers", f"--algorithm={algorithm}", "--query=50",
        f"--steps={steps}", f"--log_every={steps}", "--eval_every=0", "--eval_tasks=50",
        f"--workdir={workdir}", *arguments,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    start_time = time.monotonic()
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    whole = time.monotonic() - start_time
    return whole, json.loads(process.stdout.strip().splitlines()[-1])["train"]["seconds"]


FLAGS = {
    "algorithms": Flag("string", "maml,turtle,meta_lstm", "separated by commas"),
    **OUTPUT,
    **flags.pick("num_seeds", "steps", defaults={"num_seeds": 5, "steps": 500}),
}
EXPERIMENT = Experiment("benchmarks.seeds", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
