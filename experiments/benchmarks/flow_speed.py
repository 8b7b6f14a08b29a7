"""Time the meta-gradient of the gradient flow: the adjoint against the paper's forward sensitivities.

Their compiled memory stands beside that of ANIL by unrolling.

One 5-way 5-shot task with hard labels. Both methods take turns at each horizon; the ratio is that of the
medians over the rounds. Memory is that of a program's temporaries, each program compiled with the step bound
that its horizon needs. ANIL unrolled takes 100 gradient steps of 0.01 for a unit of the horizon; it is
compiled, not run, up to a million steps.

python -m experiments.benchmarks.flow_speed [--shot=5] [--features=1600] [--output=flow_speed.json]
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from experiments import flags
from experiments.benchmarks.timing import OUTPUT, time_in_turns, write_report
from experiments.cli import launch
from experiments.flags import Flag
from experiments.settings import Experiment, Settings

HORIZONS = 1.0, 1e2, 1e4, 1e6
ANIL_STEP = 0.01
COLUMNS = ("adjoint_ms", "forward_ms", "speedup", "adjoint_steps", "forward_steps", "difference",
           "adjoint_mb", "forward_mb", "euler_mb", "anil_mb")  # fmt: skip


def main(settings: Settings) -> int:
    """Print the table of all horizons and write it."""
    jax.config.update("jax_enable_x64", settings.precision == "float64")
    tolerances = {"rtol": settings.tolerance, "atol": settings.tolerance}
    programs = {
        "adjoint": flow_gradient(4096, **tolerances),
        "forward": flow_gradient(4096, method="forward", **tolerances),
    }
    task = clustered_task(settings.way, settings.shot, settings.features, settings.precision)
    rows = []
    print(f"{'horizon':>10}" + "".join(f"{name:>15}" for name in COLUMNS))
    for horizon in HORIZONS:
        arguments = (*task, np.asarray(horizon, task[0].dtype))
        row = {"horizon": horizon} | compare_methods(programs, arguments, settings.rounds)
        row |= compiled_megabytes(horizon, row["adjoint_steps"], tolerances, arguments)
        rows.append(row)
        cells = (row.get(name, math.nan) for name in COLUMNS)
        print(f"{horizon:10.0e}" + "".join(f"{cell:15.4g}" for cell in cells), flush=True)
    facts = settings.take("way", "shot", "features", "tolerance", "precision")
    write_report(settings.output, **facts, rows=rows)
    return 0


def clustered_task(way: int, shot: int, features: int, dtype: str) -> tuple[jax.Array, ...]:
    """Draw W0, clustered features, one-hot labels and an outer gradient."""
    rng = np.random.default_rng(0)
    label = np.arange(way * shot) % way
    center = rng.normal(size=(way, features))
    x = 0.5 * center[label] + rng.normal(size=(len(label), features))
    w0 = rng.normal(size=(way, features)) / np.sqrt(features)
    outer = rng.normal(size=w0.shape)
    return tuple(jnp.asarray(a, dtype) for a in (w0, x, np.eye(way)[label], outer))


def flow_gradient(max_steps: int, **flow: Any) -> Callable[..., Any]:
    """Return `(w0, features, labels, outer, horizon) -> ((value, info), gradients)` in W0, features and
    horizon."""

    def objective(w0: Any, features: Any, labels: Any, outer: Any, horizon: Any) -> Any:
        w, info = jmeta.gradient_flow_with_info(w0, features, labels, horizon, max_steps=max_steps, **flow)
        return (outer * w).sum(), info

    return jax.jit(jax.value_and_grad(objective, (0, 1, 4), has_aux=True))


def unrolled_anil(steps: int) -> Callable[..., Any]:
    """Return ANIL's gradient by unrolling: through `steps` gradient steps on the weights, all stored."""

    def objective(w0: Any, features: Any, labels: Any, outer: Any, horizon: Any) -> Any:
        def loss(w: Any) -> Any:
            return -(labels * jax.nn.log_softmax(features @ w.T)).sum(-1).mean()

        w, _ = jax.lax.scan(lambda w, _: (w - ANIL_STEP * jax.grad(loss)(w), None), w0, None, length=steps)
        return (outer * w).sum() + 0 * jnp.asarray(horizon)

    return jax.jit(jax.value_and_grad(objective, (0, 1, 4)))


def compare_methods(
    programs: Mapping[str, Callable[..., Any]], arguments: Any, rounds: int
) -> dict[str, Any]:
    """Measure milliseconds, steps and agreement of both methods on the same arguments."""
    seconds = time_in_turns({name: partial(programs[name], *arguments) for name in programs}, rounds)
    outputs = {name: program(*arguments) for name, program in programs.items()}
    row: dict[str, Any] = {}
    for name, ((_, info), _) in outputs.items():
        assert bool(info.ok), f"{name} did not reach T = {arguments[-1]}"
        row[f"{name}_ms"] = 1e3 * statistics.median(seconds[name])
        row[f"{name}_steps"] = int(info.steps)
    row["speedup"] = row["forward_ms"] / row["adjoint_ms"]
    row["speedup_of_fastest"] = min(seconds["forward"]) / min(seconds["adjoint"])
    (_, adjoint), (_, forward) = outputs["adjoint"], outputs["forward"]
    row["difference"] = max(
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in zip(adjoint[:2], forward[:2], strict=True)
    )
    return row


def compiled_megabytes(
    horizon: float, adjoint_steps: int, tolerances: Mapping[str, float], arguments: Any
) -> dict[str, float]:
    """Measure the compiled megabytes beside inputs and outputs, each program with the bound it needs."""
    bound = 1 << (adjoint_steps - 1).bit_length()
    descent = round(100 * horizon)
    programs = {
        "adjoint": flow_gradient(bound, **tolerances),
        "forward": flow_gradient(1 << 20, method="forward", **tolerances),
        "euler": flow_gradient(descent, solver="euler", step_size=ANIL_STEP),
    }
    if descent <= 10**6:
        programs["anil"] = unrolled_anil(descent)
    megabytes = {
        f"{name}_mb": program.lower(*arguments).compile().memory_analysis().temp_size_in_bytes / 1e6
        for name, program in programs.items()
    }
    return {"adjoint_bound": bound, "gradient_steps": descent, **megabytes}


FLAGS = flags.pick("way", "shot", defaults={"shot": 5}) | {
    "features": Flag("integer", 1600, "size of an embedding", least=1),
    "tolerance": Flag("float", 1.4e-8, "rtol and atol of both methods; the default is the released code's"),
    "precision": Flag("enum", "float64", "numbers of both methods", ("float32", "float64")),
    "rounds": Flag("integer", 9, "timings of each method and horizon", least=1),
    **OUTPUT,
}
EXPERIMENT = Experiment("benchmarks.flow_speed", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
