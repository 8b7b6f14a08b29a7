"""`python -m experiments` lists the entry points."""

import subprocess
import sys
from pathlib import Path

from experiments import __main__ as main
from experiments import reproduce

ROOT = Path(main.__file__).parents[1]


def test_entry_points_are_listed_in_a_line_each():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "experiments"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "experiments" in imported and not imported & {"jax", "numpy", "absl"}
    lines: dict[str, str] = {}
    for line in done.stdout.splitlines():
        if line.startswith("  "):
            if line[2] != " ":
                name = line.split()[0] if line.split()[0] not in lines else ""  # an example's may be the same
                lines[name] = line
            else:
                lines[name] += f" {line.strip()}"
    assert {*reproduce.EXPERIMENTS, "reproduce", "report", "own_rule", "comln_scaling"} <= set(lines)
    assert not {"cli", "runner", "__main__", "torch_steps"} & set(lines)
    for name, experiment in reproduce.EXPERIMENTS.items():
        assert lines[name].endswith(experiment.summary.splitlines()[0])
