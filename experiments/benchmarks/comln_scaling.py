"""Time and memory of one meta-gradient against the horizon (COMLN, Figure 3).

One 5-way 5-shot task, Conv-4 on 84x84 images; a horizon T is T / 0.01 gradient steps (App. E.2). Memory is
that of the compiled program's temporaries, each compiled with the step bound that its horizon needs. A curve
ends where one gradient passes --max_seconds or --max_gigabytes.

python -m experiments.benchmarks.comln_scaling [--output=runs/comln_scaling] [--image_size=84] [--shot=5]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.common import Experiment, Flag, launch, shared, write_json

STEP = 0.01  # of the gradient steps that a horizon is counted in
WAY = 5
METHODS = ("MAML", "ANIL", "COMLN, Euler", "COMLN, forward", "COMLN, adjoint")


def adapter_for(method: str, settings: SimpleNamespace, horizon: float, solver_steps: int) -> Any:
    """The adapter of a method, adapting up to `horizon`."""
    import jmeta

    steps = max(1, round(horizon / STEP))
    if method in ("MAML", "ANIL"):
        rule, unrolled = jmeta.sgd(STEP), {"order": "exact", "remat": "none"}
        network: Any = jmeta.conv4(filters=settings.filters, weights="per_task", head=WAY)
        if method == "ANIL":
            network = (jmeta.conv4(filters=settings.filters), jmeta.mlp(widths=(), outputs=WAY))
        return jmeta.gradient_adapter(network, jmeta.cross_entropy, rule, steps, **unrolled)
    flow: dict[str, Any] = {"method": "forward" if method == "COMLN, forward" else "adjoint"}
    if method == "COMLN, Euler":
        flow |= {"solver": "euler", "step_size": STEP, "max_steps": steps}
    else:
        flow |= {"max_steps": solver_steps}
    return jmeta.comln(jmeta.conv4(filters=settings.filters), WAY, horizon=horizon, **flow)


def meta_gradient(adapter: Any, settings: SimpleNamespace) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The jitted meta-gradient of one task of random images, and its arguments."""
    import jax
    import jax.numpy as jnp

    import jmeta
    from jmeta.outer.play import adapt_and_predict

    def examples(key: Any, each: int) -> Any:
        size = (WAY * each, settings.image_size, settings.image_size, 3)
        return jmeta.Batch(jax.random.uniform(key, size), jnp.arange(WAY * each) % WAY)

    support = examples(jax.random.key(1), settings.shot)
    query = examples(jax.random.key(2), settings.query)
    meta, state = adapter.init(jax.random.key(0), support.x)

    @jax.jit
    def gradient(meta: Any, support: Any, query: Any) -> Any:
        def loss(meta: Any) -> Any:
            outputs, _, info = adapt_and_predict(
                adapter, meta, state, support, query.x, jax.random.key(0), train=True
            )
            return jmeta.cross_entropy(outputs, query), info

        return jax.grad(loss, has_aux=True)(meta)

    return gradient, (meta, support, query)


def measure(method: str, settings: SimpleNamespace, horizon: float, solver_steps: int) -> dict[str, Any]:
    """Seconds (median of --repeats) and bytes of a meta-gradient; not run where memory passes its limit."""
    import jax
    import numpy as np

    gradient, arguments = meta_gradient(adapter_for(method, settings, horizon, solver_steps), settings)
    compiled = gradient.lower(*arguments).compile()
    point: dict[str, Any] = {"horizon": horizon, "bytes": compiled.memory_analysis().temp_size_in_bytes}
    if method in ("COMLN, forward", "COMLN, adjoint"):
        point["step_bound"] = solver_steps
    if point["bytes"] > settings.max_gigabytes * 1e9:
        return point | {"seconds": float("nan")}
    seconds = []
    _, info = jax.block_until_ready(compiled(*arguments))
    if not bool(np.all(info.get("flow_ok", True))):
        return point | {"failed": True}
    while len(seconds) < settings.repeats and sum(seconds) < 4 * settings.max_seconds:
        begun = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - begun)
    return point | {"seconds": float(np.median(seconds))}


def curve(method: str, settings: SimpleNamespace) -> Iterator[dict[str, Any]]:
    """Points of a method at growing horizons, until one passes a limit."""
    bound = 16
    for exponent in range(-2, settings.decades - 1):
        point = measure(method, settings, 10.0**exponent, bound)
        while point.get("failed"):  # the flow needs a larger step bound
            bound *= 2
            point = measure(method, settings, 10.0**exponent, bound)
        if not point["bytes"] > settings.max_gigabytes * 1e9:
            yield point
        if not point["seconds"] <= settings.max_seconds:
            return


def run(settings: SimpleNamespace) -> int:
    """Measure every method; write scaling.json and scaling.png."""
    import jax

    from jmeta.report.figures import scaling

    curves: dict[str, list[dict[str, Any]]] = {}
    print(f"{'method':16} {'T':>8} {'ms':>10} {'MiB':>10}  step bound")
    for method in settings.methods.split(";"):
        curves[method] = []
        for point in curve(method, settings):
            curves[method].append(point)
            print(
                f"{method:16} {point['horizon']:8g} {1e3 * point['seconds']:10.1f} "
                f"{point['bytes'] / 2**20:10.1f}  {point.get('step_bound', '')}",
                flush=True,
            )
    folder = Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0].device_kind
    write_json(folder / "scaling.json", {"device": device, "jax": jax.__version__, "curves": curves})
    limits = {"max_seconds": settings.max_seconds, "max_bytes": settings.max_gigabytes * 1e9}
    scaling(curves, folder / "scaling.png", **limits, learning_rate=STEP)
    print(f"figure in {folder / 'scaling.png'}", file=sys.stderr)
    return 0


FLAGS = shared("shot", "query", "filters", "image_size", shot=5, image_size=84) | {
    "methods": Flag("string", ";".join(METHODS), "which curves, separated by semicolons"),
    "decades": Flag("integer", 8, "decades of the horizon, from 0.01 on"),
    "repeats": Flag("integer", 5, "gradients timed for a point"),
    "max_seconds": Flag("float", 2.0, "a curve ends where a gradient takes longer"),
    "max_gigabytes": Flag("float", 4.0, "a curve ends where a gradient needs more"),
    "output": Flag("string", "runs/comln_scaling", "folder of scaling.json and scaling.png"),
}
EXPERIMENT = Experiment("benchmarks.comln_scaling", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
