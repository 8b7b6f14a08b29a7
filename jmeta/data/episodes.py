"""Few-shot classification episodes drawn on the device: a sampler is a pure function of a key.

Draws without replacement are a bijection of independent uniform integers (`distinct`): no ties to break as in
a sort of random bits, and a cost that does not grow with the number of classes or of examples. Below 2^16
classes, or examples in a class, no probability is off by more than a part in 2^48.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jmeta.data.class_dataset import ClassDataset
from jmeta.data.source import Sampler
from jmeta.data.transforms import Transform, named, normalise
from jmeta.types import Array, Batch, Key, PyTree, Task

Fetch = Callable[[PyTree, Key, Array, int], Array]


def episodes(
    dataset: ClassDataset,
    *,
    way: int,
    shot: int,
    query: int,
    rotations: bool = False,
    transform: Transform | str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    min_way: int | None = None,
    min_shot: int | None = None,
) -> Sampler:
    """Make the sampler of `way`-way `shot`-shot episodes with `query` query examples a class.

    The sampler is a pytree and a pure function, `sampler(key) -> Task`, to be called inside jit. It draws
    `way` different classes, their order being the labels 0..way-1, and from each class shot + query different
    examples. Inputs are float32 (uint8 divided by 255); `transform(key, x)`, or its name in
    jmeta.data.transforms, augments x [example, ...]; then `mean` and `std` (numbers or one a channel)
    normalise. Support [way * shot] and query [way * query] are grouped by label: row i has label i // shot,
    i // query.

    `rotations`: each class is four, class * 4 + r being all its (square) images turned by r * 90 degrees.
    `min_way`, `min_shot`: the way and the shot of each episode are uniform in min_way..way and
    min_shot..shot; the shapes stay, `mask` is 0 on rows that are padding (zeros), and n present ways have the
    labels 0..n-1. Without both, `mask` is None.

    Raises ValueError where a number is out of range, a split has too few classes or a class too few examples.
    """
    counts, shape = np.asarray(dataset.counts), dataset.examples.shape[1:]
    settings = Settings(way, shot, query, rotations, transform, mean, std, min_way, min_shot)
    _check(settings, counts.size, shape)
    if counts.min() < shot + query:
        smallest = int(counts.argmin())
        raise ValueError(
            f"episodes: class {smallest} has {counts[smallest]} examples, {shot} shots and {query} queries "
            f"ask for {shot + query} ({int((counts < shot + query).sum())} of {counts.size} classes are too "
            "small); lower shot or query, or leave those classes out"
        )
    return _sampler(settings, _fetch_rows, dataset, counts.size)


def episodes_from(
    fetch: Fetch, data: PyTree, *, classes: int, shape: Sequence[int], **options: Any
) -> Sampler:
    """Make a sampler of episodes from a source of one's own, procedural ones included.

    `fetch(data, key, chosen, number)` returns `number` different examples [way, number, *shape] of each of
    the class indices `chosen` [way], below `classes`; it runs inside jit and `data` is any pytree. `options`
    are those of `episodes`, and so is what is raised.
    """
    settings = Settings(**options)
    _check(settings, classes, tuple(shape))
    return _sampler(settings, fetch, data, classes)


def flat_batches(
    dataset: ClassDataset,
    *,
    size: int,
    transform: Transform | str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Sampler:
    """Make the sampler of plain batches of `size` examples of all classes, for supervised training.

    `sampler(key) -> Task` whose query (and support, the same batch) has x [size, ...], drawn with
    replacement, every example equally likely, and its class index as y [size]. `transform`, `mean` and `std`:
    see `episodes`. Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"flat_batches: size={size}; expected at least 1")
    return jax.tree_util.Partial(_FlatDraw(size, _preparation(transform, mean, std)), jax.device_put(dataset))


class _FlatDraw(NamedTuple):
    """The static part of `flat_batches`."""

    size: int
    preparation: Preparation

    def __call__(self, dataset: ClassDataset, key: Key) -> Task:
        ends = jnp.cumsum(dataset.counts)  # a split's classes need not lie together among the examples
        drawn = below(key, jnp.full(self.size, ends[-1], jnp.int32))
        y = jnp.searchsorted(ends, drawn, side="right").astype(jnp.int32)
        rows = dataset.offsets[y] + drawn - (ends[y] - dataset.counts[y])
        x = jnp.asarray(dataset.examples).at[rows].get(mode="promise_in_bounds")
        batch = Batch(_prepare(self.preparation, jax.random.fold_in(key, 1), x), y)
        return Task(batch, batch)


def whole(
    dataset: ClassDataset,
    *,
    size: int,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Task:
    """All examples of a split once, as tasks of `size` for `jmeta.evaluate`: a Task with leaves [task, size,
    ...], whose query and support are the same batch. Raises ValueError where `size` does not divide them."""
    counts, offsets = np.asarray(dataset.counts), np.asarray(dataset.offsets)
    total = int(counts.sum())
    if size < 1 or total % size:
        raise ValueError(f"whole: size={size} does not divide the {total} examples; choose a divisor")
    rows = np.concatenate([np.arange(first, first + count) for first, count in zip(offsets, counts)])
    y = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    x = _prepare(_preparation(None, mean, std), jax.random.key(0), jnp.asarray(dataset.examples[rows]))
    batch = Batch(x.reshape(-1, size, *x.shape[1:]), jnp.asarray(y.reshape(-1, size)))
    return Task(batch, batch)


def sample_tasks(sampler: Sampler, key: Key, step: Array | int, meta_batch: int) -> Task:
    """Draw the tasks of outer step `step`: a Task whose leaves lead with [meta_batch].

    Task i has the key fold_in(fold_in(key, step), i), so a task depends on nothing but the run's key, the
    step and its own index: neither on the number of devices nor on where a run was interrupted.
    """
    step_key = jax.random.fold_in(key, step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(meta_batch, dtype=jnp.uint32))
    return jax.vmap(sampler)(keys)


def below(key: Key, total: Array) -> Array:
    """Draw independent integers, uniform in 0..total - 1: int32 of the shape of `total` (int32, positive).

    A value is 64 random bits modulo `total`. The bits come from one call of the generator, which is a large
    piece of program (`jax.random.randint` makes three), with one long axis, for which XLA compiles it fast.
    """
    words = jax.random.bits(key, (max(2 * total.size, 32),), jnp.uint32)
    high, low = words[: 2 * total.size].reshape(2, *total.shape)
    modulus = total.astype(jnp.uint32)
    carry = (jnp.uint32(0xFFFFFFFF) % modulus + 1) % modulus  # 2^32 modulo total
    return (((high % modulus) * carry + low % modulus) % modulus).astype(jnp.int32)


def distinct(key: Key, total: Array, number: int) -> Array:
    """Draw ordered samples without replacement: int32 [..., number] below `total` [...] (int32, >= number).

    Every ordered sample is equally likely. Digit i, uniform below total - i, counts the values smaller than
    the i-th sample that are still free (the Lehmer code of the sample); decoding is the bijection.
    """
    index = jnp.broadcast_to(jnp.arange(number, dtype=jnp.int32), (*total.shape, number))
    digits = below(key, total[..., None] - index)

    def skip_taken(step: Array, values: Array) -> Array:
        position = number - 2 - step
        taken = lax.dynamic_slice_in_dim(values, position, 1, axis=-1)
        return values + ((index > position) & (values >= taken)).astype(jnp.int32)

    return lax.fori_loop(0, number - 1, skip_taken, digits)


class Settings(NamedTuple):
    """What is static about an episode; the fields are the arguments of `episodes`."""

    way: int
    shot: int
    query: int
    rotations: bool = False
    transform: Transform | str | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    min_way: int | None = None
    min_shot: int | None = None


class Preparation(NamedTuple):
    """What happens to examples after they are drawn; see `episodes`."""

    transform: Transform | None
    mean: float | tuple[float, ...] | None
    std: float | tuple[float, ...] | None


def _preparation(
    transform: Transform | str | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> Preparation:
    if std is not None and np.min(std) <= 0:
        raise ValueError(f"episodes: std is {std}; expected positive numbers")
    transform = named(transform) if isinstance(transform, str) else transform
    return Preparation(transform, _static(mean), _static(std))


class _Draw(NamedTuple):
    """The static part of a sampler. Equal settings compare equal, so that jit compiles them once."""

    settings: Settings
    preparation: Preparation
    fetch: Fetch
    classes: int

    def __call__(self, data: PyTree, key: Key) -> Task:
        settings = self.settings
        class_key, example_key, transform_key, size_key = jax.random.split(key, 4)
        turns = 4 if settings.rotations else 1
        classes = distinct(class_key, jnp.asarray(self.classes * turns, jnp.int32), settings.way)
        x = self.fetch(data, example_key, classes // turns, settings.shot + settings.query)
        if settings.rotations:
            x = jax.vmap(rotate)(x, classes % 4)
        x = _prepare(self.preparation, transform_key, x.reshape(-1, *x.shape[2:])).reshape(x.shape)
        support, query = _masks(settings, size_key)
        return Task(_batch(x[:, : settings.shot], support), _batch(x[:, settings.shot :], query))


def _sampler(settings: Settings, fetch: Fetch, data: PyTree, classes: int) -> Sampler:
    preparation = _preparation(settings.transform, settings.mean, settings.std)
    settings = settings._replace(transform=None, mean=None, std=None)
    return jax.tree_util.Partial(_Draw(settings, preparation, fetch, classes), jax.device_put(data))


def _fetch_rows(dataset: ClassDataset, key: Key, classes: Array, number: int) -> Array:
    picks = distinct(key, dataset.counts[classes], number)
    rows = dataset.offsets[classes][:, None] + picks
    return jnp.asarray(dataset.examples).at[rows].get(mode="promise_in_bounds")


def rotate(images: Array, turns: Array) -> Array:
    """Turn square images [example, side, side, channel] by `turns` [] times 90 degrees, as numpy.rot90."""
    images = jnp.where(turns % 2 == 1, images.swapaxes(1, 2), images)
    images = jnp.where((turns == 1) | (turns == 2), images[:, ::-1], images)
    return jnp.where(turns >= 2, images[:, :, ::-1], images)


def _prepare(preparation: Preparation, key: Key, x: Array) -> Array:
    transform, mean, std = preparation
    x = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x
    if transform is not None:
        x = transform(key, x)
    if mean is not None or std is not None:
        x = normalise(0.0 if mean is None else mean, 1.0 if std is None else std)(key, x)
    return x


def _masks(settings: Settings, key: Key) -> tuple[Array | None, Array | None]:
    """Which rows of support [way, shot] and query [way, query] are real; None where all are."""
    if settings.min_way is None and settings.min_shot is None:
        return None, None
    least_way = settings.way if settings.min_way is None else settings.min_way
    least_shot = settings.shot if settings.min_shot is None else settings.min_shot
    choices = jnp.array([settings.way - least_way + 1, settings.shot - least_shot + 1], jnp.int32)
    way, shot = jnp.array([least_way, least_shot], jnp.int32) + below(key, choices)
    present = jnp.arange(settings.way, dtype=jnp.int32) < way
    given = jnp.arange(settings.shot, dtype=jnp.int32) < shot
    shape = (settings.way, settings.query)
    return present[:, None] & given[None, :], jnp.broadcast_to(present[:, None], shape)


def _batch(x: Array, mask: Array | None) -> Batch:
    way, number = x.shape[:2]
    labels = jnp.repeat(jnp.arange(way, dtype=jnp.int32), number)
    x = x.reshape(way * number, *x.shape[2:])
    if mask is None:
        return Batch(x, labels)
    mask = mask.reshape(-1)
    real = mask.reshape(-1, *[1] * (x.ndim - 1))
    return Batch(jnp.where(real, x, 0), labels, mask.astype(jnp.float32))


def _check(settings: Settings, classes: int, shape: tuple[int, ...]) -> None:
    for name, least in {"way": 1, "shot": 1, "query": 1}.items():
        value = getattr(settings, name)
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"episodes: {name} is {value!r}; expected an integer, at least {least}")
    for name, most in {"min_way": settings.way, "min_shot": settings.shot}.items():
        value = getattr(settings, name)
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"episodes: {name} is {value}; expected 1 to {most}, the largest of an episode")
    if settings.rotations and (len(shape) != 3 or shape[0] != shape[1]):
        raise ValueError(
            f"episodes: rotations ask for square images [side, side, channel], these examples are {shape}; "
            "resize them or leave rotations out"
        )
    available = classes * (4 if settings.rotations else 1)
    if available < settings.way:
        raise ValueError(
            f"episodes: way {settings.way} asks for {settings.way} classes, there are {available}; lower way"
            + ("" if settings.rotations or len(shape) != 3 else " or use rotations=True")
        )


def _static(values: Any) -> float | tuple[float, ...] | None:
    if values is None or np.ndim(values) == 0:
        return None if values is None else float(values)
    return tuple(float(value) for value in values)
