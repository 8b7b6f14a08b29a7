"""One meta-gradient of the gradient flow: the adjoint in the reduced space against the paper's forward
sensitivities, and their compiled memory beside ANIL's by unrolling.

One 5-way 5-shot task with hard labels. Both methods take turns at each horizon; the ratio is that of the
medians over the rounds. Memory is what XLA sets aside beside inputs and outputs, each program compiled with
the step bound that its horizon needs. ANIL unrolled takes 100 gradient steps of 0.01 for a unit of the
horizon; it is compiled, not run, up to a million steps.

python -m experiments.benchmarks.flow_speed [--shot=5] [--features=1600] [--output=flow_speed.json]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.common import Experiment, Flag, launch, shared, write_json

HORIZONS = 1.0, 1e2, 1e4, 1e6
STEP = 0.01


def draw(settings: SimpleNamespace) -> tuple[Any, ...]:
    """W0, clustered features, one-hot labels and an outer gradient, in the precision asked for."""
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    label = np.arange(settings.way * settings.shot) % settings.way
    centre = rng.normal(size=(settings.way, settings.features))
    features = 0.5 * centre[label] + rng.normal(size=(len(label), settings.features))
    w0 = rng.normal(size=(settings.way, settings.features)) / np.sqrt(settings.features)
    outer = rng.normal(size=w0.shape)
    return tuple(jnp.asarray(a, settings.dtype) for a in (w0, features, np.eye(settings.way)[label], outer))


def flow_gradient(settings: SimpleNamespace, max_steps: int, **flow: Any) -> Callable[..., Any]:
    """`(w0, features, labels, outer, horizon) -> ((value, info), gradients)` in W0, features and horizon."""
    import jax

    import jmeta

    def objective(w0: Any, features: Any, labels: Any, outer: Any, horizon: Any) -> Any:
        w, info = jmeta.gradient_flow_with_info(w0, features, labels, horizon, max_steps=max_steps, **flow)
        return (outer * w).sum(), info

    return jax.jit(jax.value_and_grad(objective, (0, 1, 4), has_aux=True))


def unrolled(steps: int) -> Callable[..., Any]:
    """ANIL by unrolling: back through `steps` gradient steps on the weights, each of them stored."""
    import jax
    import jax.numpy as jnp

    def objective(w0: Any, features: Any, labels: Any, outer: Any, horizon: Any) -> Any:
        def loss(w: Any) -> Any:
            return -(labels * jax.nn.log_softmax(features @ w.T)).sum(-1).mean()

        w, _ = jax.lax.scan(lambda w, _: (w - STEP * jax.grad(loss)(w), None), w0, None, length=steps)
        return (outer * w).sum() + 0 * jnp.asarray(horizon)

    return jax.jit(jax.value_and_grad(objective, (0, 1, 4)))


def megabytes(compiled: Any) -> float:
    """What the program needs beside its inputs and outputs."""
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def compare(settings: SimpleNamespace, horizon: float, programs: dict[str, Any], task: Any) -> dict[str, Any]:
    """One row: milliseconds, steps, agreement and memory at this horizon."""
    import jax
    import numpy as np

    arguments = (*task, np.asarray(horizon, task[0].dtype))
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    outputs = {}
    for turn in range(settings.rounds + 1):
        for name, program in programs.items():
            begun = time.perf_counter()
            outputs[name] = jax.block_until_ready(program(*arguments))
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    row: dict[str, Any] = {"horizon": horizon}
    for name, ((_, info), _) in outputs.items():
        assert bool(info.ok), f"{name} did not reach T = {horizon}"
        row[f"{name}_ms"] = 1e3 * float(np.median(seconds[name]))
        row[f"{name}_steps"] = int(info.steps)
    row["speedup"] = row["forward_ms"] / row["adjoint_ms"]
    row["speedup_of_fastest"] = min(seconds["forward"]) / min(seconds["adjoint"])
    (_, adjoint), (_, forward) = outputs["adjoint"], outputs["forward"]
    row["difference"] = max(
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in zip(adjoint[:2], forward[:2], strict=True)
    )
    return row | memory(settings, horizon, row, arguments)


def memory(
    settings: SimpleNamespace, horizon: float, row: dict[str, Any], arguments: Any
) -> dict[str, float]:
    """Compiled megabytes at this horizon, each program with the bound it needs."""
    tolerances = {"rtol": settings.tolerance, "atol": settings.tolerance}
    bound = 1 << (row["adjoint_steps"] - 1).bit_length()
    descent = round(100 * horizon)
    euler = {"solver": "euler", "step_size": STEP}
    programs = {
        "adjoint": flow_gradient(settings, bound, **tolerances),
        "forward": flow_gradient(settings, 1 << 20, method="forward", **tolerances),
        "euler": flow_gradient(settings, descent, **euler),
    }
    if descent <= 10**6:
        programs["anil"] = unrolled(descent)
    found = {f"{name}_mb": megabytes(p.lower(*arguments).compile()) for name, p in programs.items()}
    return {"adjoint_bound": bound, "gradient_steps": descent, **found}


def run(settings: SimpleNamespace) -> int:
    """Print the table of all horizons and write it."""
    import jax

    jax.config.update("jax_enable_x64", settings.precision == "float64")
    settings.dtype = settings.precision
    tolerances = {"rtol": settings.tolerance, "atol": settings.tolerance}
    programs = {
        "adjoint": flow_gradient(settings, 4096, **tolerances),
        "forward": flow_gradient(settings, 4096, method="forward", **tolerances),
    }
    task = draw(settings)
    rows = []
    columns = ("adjoint_ms", "forward_ms", "speedup", "adjoint_steps", "forward_steps", "difference")
    columns += ("adjoint_mb", "forward_mb", "euler_mb", "anil_mb")
    print(f"{'horizon':>10}" + "".join(f"{name:>15}" for name in columns))
    for horizon in HORIZONS:
        row = compare(settings, horizon, programs, task)
        rows.append(row)
        cells = (row.get(name, math.nan) for name in columns)
        print(f"{horizon:10.0e}" + "".join(f"{cell:15.4g}" for cell in cells), flush=True)
    if settings.output:
        about = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        about |= {
            name: getattr(settings, name) for name in ("way", "shot", "features", "tolerance", "precision")
        }
        write_json(Path(settings.output), {**about, "rows": rows})
    return 0


FLAGS = shared("way", "shot", shot=5) | {
    "features": Flag("integer", 1600, "size of an embedding"),
    "tolerance": Flag("float", 1.4e-8, "rtol and atol of both methods; the default is the released code's"),
    "precision": Flag("enum", "float64", "numbers of both methods", ("float32", "float64")),
    "rounds": Flag("integer", 9, "timings of each method and horizon"),
    "output": Flag("string", None, "JSON file to write"),
}
EXPERIMENT = Experiment("benchmarks.flow_speed", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
