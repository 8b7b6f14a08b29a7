"""Which primitive a convolution and a max pooling should use here: the measurement behind
`jmeta.models.layers`.

    python -m experiments.benchmarks.convolution --output=convolution.json

A 3x3 convolution as one matrix product of the input's neighbourhoods ("matmul") and as `lax.conv` ("lax"),
and a 2x2 max pooling by reshape ("reshape") and by `reduce_window` ("window"): with weights shared by the
tasks or one set a task, once or in a loop, forward, with its gradient, and with the gradient of the gradient.
Milliseconds of one application to all tasks, the least of `--repeats`; the candidates of a row take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from experiments.common import Experiment, Flag, launch, shared, write_json

if TYPE_CHECKING:
    from jax import Array

Layer = Callable[["Array", "Array"], "Array"]


def candidates() -> dict[str, dict[str, Layer]]:
    """Operation -> name -> `(images, kernel) -> outputs`."""
    from functools import partial

    from flax import linen as nn

    from jmeta.models.layers import convolve, max_pool

    return {
        "convolution": {name: partial(convolve, primitive=name) for name in ("matmul", "lax")},
        "pooling": {
            "reshape": lambda x, kernel: max_pool(x * kernel[0, 0, 0, 0]),
            "window": lambda x, kernel: nn.max_pool(x * kernel[0, 0, 0, 0], (2, 2), (2, 2)),
        },
    }


def differentiated(layer: Layer, order: int) -> Layer:
    """The layer, the gradient of a loss on it, or the gradient of that gradient's length, in the kernel."""
    import jax
    import jax.numpy as jnp

    if order == 0:
        return layer

    def loss(kernel: Array, x: Array) -> Array:
        return jnp.square(layer(x, kernel)).mean()

    def slope(kernel: Array, x: Array) -> Array:
        return jnp.square(jax.grad(loss)(kernel, x)).sum()

    gradient = jax.grad(loss if order == 1 else slope)
    return lambda x, kernel: gradient(kernel, x)


def program(layer: Layer, per_task: bool, loop: int) -> Callable[[Array, Array], Array]:
    """The layer over all tasks, `loop` times one after another on a kernel that changes, or once where 0."""
    import jax

    tasks = jax.vmap(layer, (0, 0 if per_task else None))

    def apply(x: Array, kernel: Array) -> Array:
        if not loop:
            return tasks(x, kernel)
        return jax.lax.scan(lambda k, _: (k * (1 + 1e-9 * tasks(x, k).mean()), None), kernel, None, loop)[0]

    return jax.jit(apply)


def milliseconds(programs: dict[str, Callable], arguments: tuple, repeats: int) -> dict[str, float]:
    """The least time of each program, which take turns."""
    import jax

    best = dict.fromkeys(programs, float("inf"))
    for turn in range(repeats + 1):
        for name, run_it in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(run_it(*arguments))
            if turn:  # the first turn compiles
                best[name] = min(best[name], 1e3 * (time.perf_counter() - begin))
    return best


def run(settings: SimpleNamespace) -> int:
    """Measure every row, print the table, write."""
    import jax

    size, filters = settings.image_size, settings.filters
    images = (settings.meta_batch, settings.images, size, size, filters)
    x = jax.random.normal(jax.random.key(0), images)
    rows: list[dict[str, Any]] = []
    for operation, layers in candidates().items():
        print(f"{operation:12}{'weights':10}{'loop':6}{'order':10}" + "".join(f"{n:>12}" for n in layers))
        for per_task in (False, True):
            shape = ((settings.meta_batch,) if per_task else ()) + (3, 3, filters, filters)
            kernel = 0.05 * jax.random.normal(jax.random.key(1), shape)
            for loop in (0, settings.loop):
                for order, name in enumerate(("forward", "gradient", "second")):
                    programs = {
                        candidate: program(differentiated(layer, order), per_task, loop)
                        for candidate, layer in layers.items()
                    }
                    best = milliseconds(programs, (x, kernel), settings.repeats)
                    best = {candidate: ms / max(loop, 1) for candidate, ms in best.items()}
                    weights = "per_task" if per_task else "shared"
                    rows.append(
                        {"operation": operation, "weights": weights, "loop": loop, "order": name, "ms": best}
                    )
                    cells = "".join(f"{ms:12.2f}" for ms in best.values())
                    print(f"{'':12}{weights:10}{'yes' if loop else 'no':6}{name:10}{cells}", flush=True)
    if settings.output:
        device = jax.devices()[0].device_kind
        report = {"device": device, "jax": jax.__version__, "setting": vars(settings), "rows": rows}
        write_json(Path(settings.output), report)
    return 0


FLAGS = shared("meta_batch", "image_size", "filters", meta_batch=4, image_size=14) | {
    "images": Flag("integer", 15, "images of a task"),
    "loop": Flag("integer", 5, "iterations of the loop"),
    "repeats": Flag("integer", 5, "runs of each program"),
    "output": Flag("string", None, "JSON file to write"),
}
EXPERIMENT = Experiment("benchmarks.convolution", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
