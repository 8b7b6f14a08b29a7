"""Episodes drawn in a second, by the size of the data and what is done to them.

Data are random images of the sizes of Omniglot (1,200 classes of 20, 28x28x1), CIFAR-FS (64 of 600, 32x32x3)
and mini ImageNet (64 of 600, 84x84x3); glyphs are drawn afresh. All inside one jitted call for --meta_batch
tasks; "NumPy" is the same episode put together on the host, task by task.

python -m experiments.benchmarks.sampler [--way=5] [--shot=5] [--query=15] [--output=sampler.json]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.common import Experiment, Flag, launch, shared, write_json

SIZES = {
    "omniglot": (1200, 20, 28, 1),
    "cifar_fs": (64, 600, 32, 3),
    "mini_imagenet": (64, 600, 84, 3),
}
AUGMENTED = {"transform": "crop_flip_jitter"}
VARIED = {"min_way": 2, "min_shot": 1}
ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("omniglot", {}),
    ("omniglot", {"rotations": True}),
    ("omniglot", VARIED),
    ("cifar_fs", {}),
    ("cifar_fs", AUGMENTED),
    ("mini_imagenet", {}),
    ("mini_imagenet", AUGMENTED),
    ("glyphs", {}),
    ("sinusoid", {}),
)


def images(name: str) -> Any:
    """Random images of the size of a data set, as a ClassDataset."""
    import numpy as np

    from jmeta.data.class_dataset import from_arrays

    classes, each, side, channels = SIZES[name]
    pixels = np.random.default_rng(0).integers(0, 256, (classes * each, side, side, channels), np.uint8)
    return from_arrays(pixels, np.repeat(np.arange(classes), each))


def make_sampler(name: str, data: Any, settings: SimpleNamespace, options: dict[str, Any]) -> Any:
    """The sampler of a row."""
    import jmeta
    from jmeta.data.sources import glyphs

    numbers = {"shot": settings.shot, "query": settings.query}
    if name == "sinusoid":
        return jmeta.sinusoids(**numbers)
    if name == "glyphs":
        return glyphs.dataset().episodes("train", way=settings.way, **numbers)
    return jmeta.episodes(data, way=settings.way, **numbers, **options)


def on_device(sampler: Any, settings: SimpleNamespace) -> tuple[float, Callable[[int], None]]:
    """Seconds to compile, and a function that draws the tasks of a step."""
    import jax

    from jmeta.data.episodes import sample_tasks

    draw = jax.jit(lambda sampler, key, step: sample_tasks(sampler, key, step, settings.meta_batch))
    key = jax.random.key(0)
    start = time.perf_counter()
    jax.block_until_ready(draw(sampler, key, 0))
    return time.perf_counter() - start, lambda step: jax.block_until_ready(draw(sampler, key, step))


def on_host(data: Any, settings: SimpleNamespace) -> Callable[[int], None]:
    """A function that puts the tasks of a step together with NumPy, in a loop."""
    import numpy as np

    classes, each, *_ = SIZES["omniglot"]
    x = data.examples.reshape(classes, each, *data.examples.shape[1:])
    random = np.random.default_rng(0)

    def draw(step: int) -> None:
        tasks = []
        for _ in range(settings.meta_batch):
            chosen = random.choice(classes, settings.way, replace=False)
            drawn = [random.choice(each, settings.shot + settings.query, replace=False) for _ in chosen]
            tasks.append(np.stack([x[c, rows].astype(np.float32) / 255 for c, rows in zip(chosen, drawn)]))
        np.stack(tasks)

    return draw


def rate(draw: Callable[[int], None], settings: SimpleNamespace) -> float:
    """Tasks a second, by the fastest of --repeats steps."""
    seconds = []
    for step in range(settings.repeats):
        start = time.perf_counter()
        draw(step)
        seconds.append(time.perf_counter() - start)
    return settings.meta_batch / min(seconds)


def run(settings: SimpleNamespace) -> int:
    """Measure every row and print the table."""
    import jax

    rows: list[dict[str, Any]] = []
    print(f"{'data':14} {'options':32} {'tasks/s':>9} {'ms/task':>9} {'compile s':>10}")

    def report(name: str, options: str, tasks_per_second: float, compiling: float | None) -> None:
        row = f"{name:14} {options:32} {tasks_per_second:9.0f} {1e3 / tasks_per_second:9.3f}"
        print(row + ("" if compiling is None else f" {compiling:10.1f}"), flush=True)
        rows.append(
            {"data": name, "options": options, "tasks_per_second": tasks_per_second, "compile_s": compiling}
        )

    held, data = None, None
    for name, options in ROWS:
        if name != held and name in SIZES:
            held, data = name, jax.device_put(images(name))
        compiling, draw = on_device(make_sampler(name, data, settings, options), settings)
        report(name, " ".join(f"{k}={v}" for k, v in options.items()), rate(draw, settings), compiling)
    report("omniglot", "NumPy", rate(on_host(images("omniglot"), settings), settings), None)
    if settings.output:
        device = jax.devices()[0].device_kind
        write_json(Path(settings.output), {"device": device, "jax": jax.__version__, "rows": rows})
    return 0


FLAGS = shared("way", "shot", "query", "meta_batch", shot=5) | {
    "repeats": Flag("integer", 30, "steps timed for a row"),
    "output": Flag("string", None, "JSON file to write"),
}
EXPERIMENT = Experiment("benchmarks.sampler", __doc__ or "", FLAGS, {}, run)

if __name__ == "__main__":
    launch(EXPERIMENT)
