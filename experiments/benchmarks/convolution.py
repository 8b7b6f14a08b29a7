"""Compare primitives for convolution and max pooling: the measurement behind `jmeta.models.conv`.

    python -m experiments.benchmarks.convolution --output=convolution.json

A 3x3 convolution as one matrix product of the input's neighborhoods ("matmul") and as `lax.conv` ("lax"),
and a 2x2 max pooling by reshape ("reshape") and by `reduce_window` ("window"): with weights shared by the
tasks or one set a task, once or in a loop, forward, with its gradient, and with the gradient of the gradient.
Milliseconds of one application to all tasks, the least of `--repeats`; the candidates of a row take turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from experiments import flags
from experiments.benchmarks.timing import OUTPUT, time_in_turns, write_report
from experiments.cli import launch
from experiments.flags import Flag
from experiments.settings import Experiment, Settings
from jmeta.models.conv import convolve, max_pool

Operation = Callable[[Array, Array], Array]
ORDERS = ("forward", "gradient", "second")


def main(settings: Settings) -> int:
    """Measure every row, print the table, write."""
    size, filters = settings.image_size, settings.filters
    images = (settings.meta_batch, settings.images, size, size, filters)
    x = jax.random.normal(jax.random.key(0), images)
    rows: list[dict[str, Any]] = []
    for operation, layers in candidates().items():
        print(f"{operation:12}{'weights':10}{'loop':6}{'order':10}" + "".join(f"{n:>12}" for n in layers))
        for per_task, loop, order in itertools.product((False, True), (0, settings.loop), range(3)):
            shape = ((settings.meta_batch,) if per_task else ()) + (3, 3, filters, filters)
            kernel = 0.05 * jax.random.normal(jax.random.key(1), shape)
            programs = {
                name: partial(apply_to_tasks(differentiate(layer, order), per_task, loop), x, kernel)
                for name, layer in layers.items()
            }
            seconds = time_in_turns(programs, settings.repeats)
            best = {name: 1e3 * min(each) / max(loop, 1) for name, each in seconds.items()}
            weights, pass_name = "per_task" if per_task else "shared", ORDERS[order]
            rows.append(
                {"operation": operation, "weights": weights, "loop": loop, "order": pass_name, "ms": best}
            )
            cells = "".join(f"{ms:12.2f}" for ms in best.values())
            print(f"{'':12}{weights:10}{'yes' if loop else 'no':6}{pass_name:10}{cells}", flush=True)
    write_report(settings.output, setting=dict(settings), rows=rows)
    return 0


def candidates() -> dict[str, dict[str, Operation]]:
    """List `(images, kernel) -> outputs` by operation and by name."""
    from flax import linen as nn

    return {
        "convolution": {name: partial(convolve, primitive=name) for name in ("matmul", "lax")},
        "pooling": {
            "reshape": lambda x, kernel: max_pool(x * kernel[0, 0, 0, 0]),
            "window": lambda x, kernel: nn.max_pool(x * kernel[0, 0, 0, 0], (2, 2), (2, 2)),
        },
    }


def differentiate(layer: Operation, order: int) -> Operation:
    """Return the layer, the gradient of a loss on it, or the gradient of that gradient's length, in the
    kernel."""
    if order == 0:
        return layer

    def loss(kernel: Array, x: Array) -> Array:
        return jnp.square(layer(x, kernel)).mean()

    def slope(kernel: Array, x: Array) -> Array:
        return jnp.square(jax.grad(loss)(kernel, x)).sum()

    gradient = jax.grad(loss if order == 1 else slope)
    return lambda x, kernel: gradient(kernel, x)


def apply_to_tasks(layer: Operation, per_task: bool, loop: int) -> Callable[[Array, Array], Array]:
    """Compile the layer over all tasks, `loop` times in sequence on a kernel that changes, or once if 0."""
    tasks = jax.vmap(layer, (0, 0 if per_task else None))

    def apply(x: Array, kernel: Array) -> Array:
        if not loop:
            return tasks(x, kernel)
        return jax.lax.scan(lambda k, _: (k * (1 + 1e-9 * tasks(x, k).mean()), None), kernel, None, loop)[0]

    return jax.jit(apply)


FLAGS = flags.pick(
    *"meta_batch image_size filters".split(),
    defaults={"meta_batch": 4, "image_size": 14},
    helps={"image_size": "height and width of images", "filters": "channels of images"},
) | {
    "images": Flag("integer", 15, "images of a task", least=1),
    "loop": Flag("integer", 5, "iterations of the loop", least=1),
    "repeats": Flag("integer", 5, "runs of each program", least=1),
    **OUTPUT,
}
EXPERIMENT = Experiment("benchmarks.convolution", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
