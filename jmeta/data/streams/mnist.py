"""Continual streams of transformed images, drawn on the device: rotations and permutations of MNIST.

Task t has a sample of the training images under a transformation of its own, with the labels unchanged; there
is one head, and the network does not know the task (Lopez-Paz & Ranzato 2017; Riemer et al. 2019).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.bounds import require_within
from jmeta.data.class_dataset import ClassDataset
from jmeta.types import Array, Batch, Key


class Images(NamedTuple):
    """The images that all tasks transform: `train_x` and `test_x` [example, pixel] uint8, `train_y` and
    `test_y` [example] int32."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


class TaskStream(NamedTuple):
    """A draw of a stream.

    `maps` [task, pixel] int32: for each pixel of a task's images, the pixel of the original that it repeats,
    or the number of pixels if it is blank (zero); `rows` [task, step, example] int32: the training images of
    each batch; `first_pass` [step] bool: whether a task's batches of that step are new.
    """

    maps: Array
    rows: Array
    first_pass: Array


def pixel_rows(train: ClassDataset, test: ClassDataset) -> Images:
    """Put the images of two splits, such as those of `dataset("mnist")`, on the device as pixel rows.

    Raises ValueError if the images of the splits differ in size, or their classes in number.
    """
    sizes = [(len(split.counts), *split.examples.shape[1:]) for split in (train, test)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"pixel_rows: {sizes[0][0]} classes of images {list(sizes[0][1:])} to train and {sizes[1][0]} of "
            f"{list(sizes[1][1:])} to test; expected the same classes and sizes"
        )

    def rows(split: ClassDataset) -> tuple[Array, Array]:
        counts, offsets = np.asarray(split.counts), np.asarray(split.offsets)
        labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        places = np.concatenate([np.arange(first, first + count) for first, count in zip(offsets, counts)])
        flat = np.asarray(split.examples)[places].reshape(len(labels), -1)  # [example, pixel]
        return jax.device_put(flat), jax.device_put(labels)

    return Images(*rows(train), *rows(test))


def require_fit(images: Images, stream: TaskStream) -> None:
    """Raise ValueError if a stream does not fit the images: maps of other pixels, or rows beyond the last.

    Rows are compared if they are concrete.
    """
    _check_pixels(images.train_x, stream.maps)
    count = images.train_y.shape[0]
    reason = f"there are {count} training images; draw the stream with examples={count}"
    require_within("task_stream", "rows", stream.rows, 0, count - 1, reason)


def rotation_map(angle: Array, size: int) -> Array:
    """Map the pixels of a rotated `size` x `size` image to those of the original: [pixel] int32.

    The rotation is counter-clockwise by `angle` degrees [] about the center, nearest neighbor on the same
    canvas; a pixel from outside it maps to size^2. These are the pixels of Pillow's `Image.rotate`, which
    made the published files, down to its arithmetic in 65,536ths of a pixel.
    """
    radians = jnp.deg2rad(angle)
    cosine, sine = jnp.cos(radians), jnp.sin(radians)
    first = (1 - size) / 2  # the center of the first pixel, from that of the image
    places = jnp.arange(size, dtype=jnp.int32)
    right, down = places[None, :], places[:, None]
    # [row, column]
    column = _fixed((cosine - sine) * first + size / 2) + _fixed(cosine) * right - _fixed(sine) * down
    row = _fixed((cosine + sine) * first + size / 2) + _fixed(sine) * right + _fixed(cosine) * down
    column, row = column >> 16, row >> 16
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    return jnp.where(inside, row * size + column, size * size).reshape(-1)  # [pixel]


def _fixed(value: Array) -> Array:
    return jnp.floor(value * 65536 + 0.5).astype(jnp.int32)


def _check_tasks(who: str, tasks: int) -> None:
    if tasks < 1:
        raise ValueError(f"{who}: tasks={tasks}; expected at least 1")


def rotations(key: Key, *, tasks: int = 20, pixels: int = 784, degrees: float = 180.0) -> Array:
    """Draw the maps of the rotations problem [task, pixel]: task t is rotated by one angle, uniform in the
    t-th of `tasks` equal parts of 0 to `degrees`.

    Raises ValueError if `pixels` is not a square number, or there is no task.
    """
    _check_tasks("rotations", tasks)
    size = math.isqrt(pixels)
    if size * size != pixels:
        raise ValueError(f"rotations: pixels={pixels}; expected a square number, that of a square image")
    angles = (jnp.arange(tasks) + jax.random.uniform(key, (tasks,))) * (degrees / tasks)
    return jax.vmap(lambda angle: rotation_map(angle, size))(angles)


def permutations(key: Key, *, tasks: int = 20, pixels: int = 784) -> Array:
    """Draw the maps of the permutations problem [task, pixel]: each task, including the first, permutes the
    pixels in its own way. Raises ValueError if there is no task."""
    _check_tasks("permutations", tasks)
    keys = jax.random.split(key, tasks)
    return jax.vmap(lambda key: jax.random.permutation(key, pixels))(keys).astype(jnp.int32)


def task_stream(
    key: Key, maps: Array, examples: int, *, samples: int, batch: int, passes: int = 1
) -> TaskStream:
    """Draw the images of each task and their order.

    Args:
      key: decides the samples and every order.
      maps: [task, pixel], from `rotations` or `permutations`.
      examples: number of training images there are, `len(images.train_y)`.
      samples: images of a task, drawn without replacement, independently of other tasks.
      batch: images of a step.
      passes: passes over a task's images before the next task, each in another order.

    Raises:
      ValueError: if a task's images do not divide into batches, or are more than there are.
    """
    if samples < 1 or samples > examples:
        raise ValueError(f"task_stream: samples={samples}; expected 1 to {examples}, the images there are")
    if batch < 1 or samples % batch:
        raise ValueError(
            f"task_stream: {samples} images do not divide into batches of {batch}; choose a divisor"
        )
    if passes < 1:
        raise ValueError(f"task_stream: passes={passes}; expected at least 1")

    def rows_of(task: Array) -> Array:
        key_sample, key_order = jax.random.split(jax.random.fold_in(key, task))
        sample = jax.random.permutation(key_sample, examples)[:samples].astype(jnp.int32)
        orders = jax.vmap(lambda key: jax.random.permutation(key, sample))
        return orders(jax.random.split(key_order, passes)).reshape(-1, batch)  # [step, example]

    rows = jax.lax.map(rows_of, jnp.arange(maps.shape[0]))
    return TaskStream(maps, rows, jnp.arange(rows.shape[1]) < samples // batch)


def transform(x: Array, pixel_map: Array) -> Array:
    """Apply a map [pixel] to images [..., pixel] uint8; the result is float32 in 0..1.

    Raises ValueError for a map of another number of pixels.
    """
    _check_pixels(x, pixel_map)
    outside = jnp.zeros((*x.shape[:-1], 1), x.dtype)
    return jnp.concatenate([x, outside], axis=-1)[..., pixel_map].astype(jnp.float32) / 255


def batch_at(source: Images, stream: TaskStream, task: Array | int, step: Array | int) -> Batch:
    """Return the batch of a task's step, x [example, pixel] and y [example].

    Beyond the last task, step or image, labels are -1, for which no loss is finite; ValueError if the task or
    the step is concrete.
    """
    tasks, steps, _ = stream.rows.shape
    require_within("batch_at", "task", task, 0, tasks - 1, f"a stream of {tasks} tasks")
    require_within("batch_at", "step", step, 0, steps - 1, f"a stream of {steps} steps a task")
    rows = stream.rows.at[task, step].get(mode="fill", fill_value=source.train_y.shape[0])
    return Batch(transform(source.train_x[rows], stream.maps[task]), _labels_at(source.train_y, rows))


def test_rows(source: Images, stream: TaskStream, task: Array | int, rows: Array) -> Batch:
    """Return the test images of a task with the indices `rows` [example].

    Beyond the last task or image, labels are -1, for which no loss is finite; ValueError if these are
    concrete.
    """
    tasks, count = stream.maps.shape[0], source.test_y.shape[0]
    require_within("test_rows", "task", task, 0, tasks - 1, f"a stream of {tasks} tasks")
    require_within("test_rows", "rows", rows, 0, count - 1, f"there are {count} test images")
    rows = jnp.where(task < tasks, rows, count)
    return Batch(transform(source.test_x[rows], stream.maps[task]), _labels_at(source.test_y, rows))


def _labels_at(labels: Array, rows: Array) -> Array:
    """Select labels at `rows` [example]: -1 beyond the last."""
    return labels.at[rows].get(mode="fill", fill_value=-1)


def _check_pixels(x: Array, maps: Array) -> None:
    if x.shape[-1] != maps.shape[-1]:
        raise ValueError(
            f"task_stream: maps of {maps.shape[-1]} pixels for images of {x.shape[-1]}; draw the maps with "
            f"pixels={x.shape[-1]}"
        )
