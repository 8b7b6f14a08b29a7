"""Episodes drawn in a second, by the size of the data and the variations.

Data are random images of the sizes of Omniglot (1,200 classes of 20, 28x28x1), CIFAR-FS (64 of 600, 32x32x3)
and mini ImageNet (64 of 600, 84x84x3); glyphs are drawn afresh. All inside one jitted call for --meta_batch
tasks; "NumPy" is the same episode put together on the host, task by task.

python -m experiments.benchmarks.sampler [--way=5] [--shot=5] [--query=15] [--output=sampler.json]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jmeta
from experiments import flags
from experiments.benchmarks.timing import OUTPUT, write_report
from experiments.cli import launch
from experiments.flags import Flag
from experiments.settings import Experiment, Settings
from jmeta.data.class_dataset import ClassDataset
from jmeta.data.episodes import sample_tasks
from jmeta.data.source import Sampler

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


def main(settings: Settings) -> int:
    """Measure every row and print the table."""
    numbers, meta_batch = settings.take("way", "shot", "query"), settings.meta_batch
    rows: list[dict[str, Any]] = []
    print(f"{'data':14} {'options':32} {'tasks/s':>9} {'ms/task':>9} {'compile s':>10}")

    def report(name: str, options: str, draw: Callable[[int], Any], compiling: float | None) -> None:
        tasks_per_second = meta_batch / fastest(draw, settings.repeats)
        row = f"{name:14} {options:32} {tasks_per_second:9.0f} {1e3 / tasks_per_second:9.3f}"
        print(row + ("" if compiling is None else f" {compiling:10.1f}"), flush=True)
        rows.append(
            {"data": name, "options": options, "tasks_per_second": tasks_per_second, "compile_s": compiling}
        )

    on_device, data = None, None
    for name, options in ROWS:
        if name != on_device and name in SIZES:
            on_device, data = name, jax.device_put(random_images(name))
        compiling, draw = draw_on_device(make_sampler(name, data, numbers, options), meta_batch)
        report(name, " ".join(f"{k}={v}" for k, v in options.items()), draw, compiling)
    report("omniglot", "NumPy", draw_on_host("omniglot", **numbers, meta_batch=meta_batch), None)
    write_report(settings.output, rows=rows)
    return 0


def random_images(name: str) -> ClassDataset:
    """Draw random images of the size of a data set."""
    classes, each, side, channels = SIZES[name]
    pixels = np.random.default_rng(0).integers(0, 256, (classes * each, side, side, channels), np.uint8)
    return jmeta.from_arrays(pixels, np.repeat(np.arange(classes), each))


def make_sampler(
    name: str, data: ClassDataset | None, numbers: dict[str, int], options: dict[str, Any]
) -> Sampler:
    """Make the sampler of a row, of episodes with these numbers (way, shot, query)."""
    if name == "sinusoid":
        return jmeta.sinusoids(shot=numbers["shot"], query=numbers["query"])
    if name == "glyphs":
        return jmeta.dataset("glyphs").episodes("train", **numbers)
    return jmeta.episodes(data, **numbers, **options)


def draw_on_device(sampler: Sampler, meta_batch: int) -> tuple[float, Callable[[int], Any]]:
    """Return the seconds to compile, and a function that draws the tasks of a step."""
    draw = jax.jit(lambda sampler, key, step: sample_tasks(sampler, key, step, meta_batch))
    key = jax.random.key(0)
    start_time = time.perf_counter()
    jax.block_until_ready(draw(sampler, key, 0))
    return time.perf_counter() - start_time, lambda step: draw(sampler, key, step)


def draw_on_host(name: str, *, way: int, shot: int, query: int, meta_batch: int) -> Callable[[int], Any]:
    """Return a function that puts the tasks of a step together with NumPy, in a loop."""
    classes, each, *_ = SIZES[name]
    examples = random_images(name).examples
    x = examples.reshape(classes, each, *examples.shape[1:])  # [class, example, height, width, channel]
    random = np.random.default_rng(0)

    def draw(step: int) -> np.ndarray:
        tasks = []
        for _ in range(meta_batch):
            chosen = random.choice(classes, way, replace=False)
            drawn = [random.choice(each, shot + query, replace=False) for _ in chosen]
            tasks.append(np.stack([x[c, rows].astype(np.float32) / 255 for c, rows in zip(chosen, drawn)]))
        return np.stack(tasks)

    return draw


def fastest(draw: Callable[[int], Any], repeats: int) -> float:
    """Return the seconds of the fastest of so many steps."""
    seconds = []
    for step in range(repeats):
        start_time = time.perf_counter()
        jax.block_until_ready(draw(step))
        seconds.append(time.perf_counter() - start_time)
    return min(seconds)


FLAGS = flags.pick("way", "shot", "query", "meta_batch", defaults={"shot": 5}) | {
    "repeats": Flag("integer", 30, "steps timed for a row", least=1),
    **OUTPUT,
}
EXPERIMENT = Experiment("benchmarks.sampler", __doc__ or "", FLAGS, main)

if __name__ == "__main__":
    launch(EXPERIMENT)
