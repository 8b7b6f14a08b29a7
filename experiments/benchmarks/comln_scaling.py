"""Time and memory of one meta-gradient against the horizon (COMLN, Figure 3).

One 5-way 5-shot task, Conv-4 on 84x84 images; a horizon T is T / 0.01 gradient steps (App. E.2). Memory is
that of the compiled program's temporaries, each compiled with the step bound that its horizon needs. A curve
ends when one gradient passes --max_seconds or --max_gigabytes.

python -m experiments.benchmarks.comln_scaling [--output=runs/comln_scaling] [--image_size=84] [--shot=5]
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from experiments import flags
from experiments.benchmarks.timing import write_report
from experiments.cli import launch
from experiments.flags import Flag
from experiments.settings import Experiment, Settings
from jmeta.outer.episode import adapt_and_predict
from jmeta.report.figures import scaling
from jmeta.types import Adapter, Batch, Metrics, PyTree, Task

STEP = 0.01  # of the gradient steps that a horizon is counted in
WAY = 5
CURVES = ("MAML", "ANIL", "COMLN, Euler", "COMLN, forward", "COMLN, adjoint")


class Limits(NamedTuple):
    """The most seconds and bytes of a gradient, and how often it is timed."""

    seconds: float
    bytes: float
    repeats: int


def main(settings: Settings) -> int:
    """Measure every method; write scaling.json and scaling.png."""
    limits = Limits(settings.max_seconds, settings.max_gigabytes * 1e9, settings.repeats)
    task = random_task(settings.image_size, settings.shot, settings.query)
    curves: dict[str, list[dict[str, Any]]] = {}
    print(f"{'method':16} {'T':>8} {'ms':>10} {'MiB':>10}  step bound")
    for method in settings.methods.split(";"):
        curves[method] = []
        for point in curve(method, settings.filters, task, settings.decades, limits):
            curves[method].append(point)
            print(
                f"{method:16} {point['horizon']:8g} {1e3 * point['seconds']:10.1f} "
                f"{point['bytes'] / 2**20:10.1f}  {point.get('step_bound', '')}",
                flush=True,
            )
    folder = Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder / "scaling.json", curves=curves)
    bounds = {"max_seconds": limits.seconds, "max_bytes": limits.bytes}
    scaling(curves, folder / "scaling.png", **bounds, learning_rate=STEP)
    print(f"figure in {folder / 'scaling.png'}", file=sys.stderr)
    return 0


def random_task(image_size: int, shot: int, query: int) -> Task:
    """Draw a task of random images."""

    def batch(seed: int, count: int) -> Batch:
        x = jax.random.uniform(jax.random.key(seed), (WAY * count, image_size, image_size, 3))
        return Batch(x, jnp.arange(WAY * count) % WAY)

    return Task(batch(1, shot), batch(2, query))


def curve(method: str, filters: int, task: Task, decades: int, limits: Limits) -> Iterator[dict[str, Any]]:
    """Measure a method at growing horizons, until a point passes a limit."""
    bound = 16
    for exponent in range(-2, decades - 1):
        point = measure(method, filters, task, 10.0**exponent, bound, limits)
        while point.get("failed"):  # the flow needs a larger step bound
            bound *= 2
            point = measure(method, filters, task, 10.0**exponent, bound, limits)
        if not point["bytes"] > limits.bytes:
            yield point
        if not point["seconds"] <= limits.seconds:
            return


def measure(
    method: str, filters: int, task: Task, horizon: float, solver_steps: int, limits: Limits
) -> dict[str, Any]:
    """Measure the bytes and the median seconds of a meta-gradient, which is not run if it needs too many
    bytes; the point is "failed" if the flow needs more steps than `solver_steps`."""
    gradient, meta = meta_gradient(make_adapter(method, filters, horizon, solver_steps), task)
    compiled = gradient.lower(meta, task).compile()
    point: dict[str, Any] = {"horizon": horizon, "bytes": compiled.memory_analysis().temp_size_in_bytes}
    if method in ("COMLN, forward", "COMLN, adjoint"):
        point["step_bound"] = solver_steps
    if point["bytes"] > limits.bytes:
        return point | {"seconds": math.nan}
    seconds: list[float] = []
    _, info = jax.block_until_ready(compiled(meta, task))
    if not bool(np.all(info.get("flow_ok", True))):
        return point | {"failed": True}
    while len(seconds) < limits.repeats and sum(seconds) < 4 * limits.seconds:
        start_time = time.perf_counter()
        jax.block_until_ready(compiled(meta, task))
        seconds.append(time.perf_counter() - start_time)
    return point | {"seconds": statistics.median(seconds)}


def make_adapter(method: str, filters: int, horizon: float, solver_steps: int) -> Adapter:
    """Make the adapter of a method, which adapts up to `horizon`."""
    steps = max(1, round(horizon / STEP))
    body, rule = jmeta.conv4(filters=filters), jmeta.sgd(STEP)
    unrolled: dict[str, Any] = {"order": "exact", "remat": "none"}
    if method == "MAML":
        network = jmeta.conv4(filters=filters, weights="per_task", head=WAY)
        return jmeta.gradient_adapter(network, jmeta.cross_entropy, rule, steps, **unrolled)
    if method == "ANIL":
        head = jmeta.mlp(widths=(), outputs=WAY)
        return jmeta.anil(body, head, jmeta.cross_entropy, rule, steps, **unrolled)
    flow: dict[str, Any] = {"method": "forward" if method == "COMLN, forward" else "adjoint"}
    if method == "COMLN, Euler":
        flow |= {"solver": "euler", "step_size": STEP, "solver_steps": steps}
    else:
        flow |= {"solver_steps": solver_steps}
    return jmeta.comln(body, WAY, horizon=horizon, **flow)


def meta_gradient(adapter: Adapter, task: Task) -> tuple[Callable[..., Any], PyTree]:
    """Return the jitted meta-gradient `(meta, task) -> (gradient, info)`, and initial meta-parameters."""
    meta, state = adapter.init(jax.random.key(0), task.support.x)

    @jax.jit
    def gradient(meta: PyTree, task: Task) -> tuple[PyTree, Metrics]:
        def loss(meta: PyTree) -> Any:
            outputs, _, info = adapt_and_predict(
                adapter, meta, state, task.support, task.query.x, jax.random.key(0), train=True
            )
            return jmeta.cross_entropy(outputs, task.query), info

        return jax.grad(loss, has_aux=True)(meta)

    return gradient, meta


FLAGS = flags.pick(
    *"shot query filters image_size".split(),
    defaults={"shot": 5, "image_size": 84},
    helps={"filters": "channels of conv4", "image_size": "height and width of images"},
) | {
    "methods": Flag("string", ";".join(CURVES), "which curves, separated by semicolons"),
    "decades": Flag("integer", 8, "decades of the horizon, from 0.01 on", least=1),
    "repeats": Flag("integer", 5, "gradients timed for a point", least=1),
    "max_seconds": Flag("float", 2.0, "a curve ends when a gradient takes longer", above=0),
    "max_gigabytes": Flag("float", 4.0, "a curve ends when a gradient needs more", above=0),
    "output": Flag("string", "runs/comln_scaling", "folder of scaling.json and scaling.png"),
}
EXPERIMENT = Experiment("benchmarks.comln_scaling", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
