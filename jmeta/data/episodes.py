"""Few-shot classification episodes drawn on the device: a sampler is a pure function of a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.data.class_dataset import ClassDataset
from jmeta.data.preparation import Preparation, preparation, prepare_examples
from jmeta.data.sampling import sample_distinct, uniform_below
from jmeta.data.source import Dataset, DatasetInfo, Sampler, check_split
from jmeta.data.transforms import Transform
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
    `way` different classes, whose order gives them the labels 0..way-1, and shot + query different examples
    of each. Inputs are float32 (uint8 divided by 255), augmented, then normalized. Support [way * shot] and
    query [way * query] are grouped by label: row i has label i // shot, i // query.

    Args:
      dataset: the examples of a split.
      way: classes of an episode.
      shot: support examples of a class.
      query: query examples of a class.
      rotations: count each class as four; class * 4 + r has all its (square) images turned by r * 90 degrees.
      transform: augmentation `transform(key, x)` of x [example, ...], or its name in jmeta.data.transforms.
      mean: subtracted from the inputs, one number or one a channel.
      std: divides the inputs, one number or one a channel.
      min_way: if set, the way of each episode is uniform in min_way..way. Shapes stay the same: `mask` is 0
        on padding rows (zeros), and n present classes have the labels 0..n-1.
      min_shot: the same for the shot. If neither is set, `mask` is None.

    Raises:
      ValueError: if a number is out of range, a split has too few classes or a class too few examples.
    """
    counts, shape = np.asarray(dataset.counts), dataset.examples.shape[1:]
    plan = _EpisodePlan(way, shot, query, rotations, transform, mean, std, min_way, min_shot)
    _check(plan, counts.size, shape)
    _check_rows(dataset, counts)
    if counts.min() < shot + query:
        smallest = int(counts.argmin())
        raise ValueError(
            f"episodes: class {smallest} has {counts[smallest]} examples, {shot} shots and {query} queries "
            f"ask for {shot + query} ({int((counts < shot + query).sum())} of {counts.size} classes are too "
            "small); lower shot or query, or leave those classes out"
        )
    return _sampler(plan, _fetch_rows, dataset, counts.size)


def episodes_from(
    fetch: Fetch, data: PyTree, *, classes: int, shape: Sequence[int], **options: Any
) -> Sampler:
    """Make a sampler of episodes from the user's own source, procedural ones included.

    `fetch(data, key, chosen, number)` returns `number` different examples [way, number, *shape] of each of
    the class indices `chosen` [way], below `classes`; it runs inside jit and `data` is any pytree. `options`
    and errors are those of `episodes`.
    """
    plan = _EpisodePlan(**options)
    _check(plan, classes, tuple(shape))
    return _sampler(plan, fetch, data, classes)


def from_splits(info: DatasetInfo, splits: Mapping[str, ClassDataset]) -> Dataset:
    """Make a `Dataset` from arrays grouped by class.

    `splits` maps "train", "validation" and "test" to a ClassDataset each, in host memory: a split goes to the
    device when episodes are first drawn from it. The `episodes` of the result passes its options to
    `jmeta.data.episodes.episodes`, and raises ValueError for an unknown split or an episode that asks for
    more classes or examples than there are.
    """
    splits = dict(splits)
    on_device = cache(lambda split: jax.device_put(splits[check_split(split, splits)]))

    def episodes_of(split: str, **options: Any) -> Sampler:
        return episodes(on_device(split), **options)

    return Dataset(info, episodes_of, splits)


def way_of(sampler: Sampler) -> int | None:
    """Return the way of the episodes of a sampler that `episodes` has made, None for any other."""
    draw = getattr(sampler, "func", None)
    return draw.plan.way if isinstance(draw, _EpisodeDraw) else None


def sample_tasks(sampler: Sampler, key: Key, step: Array | int, meta_batch: int) -> Task:
    """Draw the tasks of outer step `step`: a Task whose leaves lead with [meta_batch].

    Task i has the key fold_in(fold_in(key, step), i), so a task depends on nothing but the run's key, the
    step and its own index: neither on the number of devices nor on when a run was interrupted.
    """
    step_key = jax.random.fold_in(key, step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(meta_batch, dtype=jnp.uint32))
    return jax.vmap(sampler)(keys)


def rotate(images: Array, turns: Array) -> Array:
    """Turn square images [example, side, side, channel] by `turns` [] times 90 degrees, as numpy.rot90."""
    # each line: [example, height, width, channel]
    images = jnp.where(turns % 2 == 1, images.swapaxes(1, 2), images)
    images = jnp.where((turns == 1) | (turns == 2), images[:, ::-1], images)
    return jnp.where(turns >= 2, images[:, :, ::-1], images)


class _EpisodePlan(NamedTuple):
    """The static choices of an episode; the fields are the arguments of `episodes`."""

    way: int
    shot: int
    query: int
    rotations: bool = False
    transform: Transform | str | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    min_way: int | None = None
    min_shot: int | None = None


class _EpisodeDraw(NamedTuple):
    """The static part of a sampler. Equal plans compare equal, so that jit compiles them once."""

    plan: _EpisodePlan
    preparation: Preparation
    fetch: Fetch
    classes: int

    def __call__(self, data: PyTree, key: Key) -> Task:
        plan = self.plan
        class_key, example_key, transform_key, size_key = jax.random.split(key, 4)
        turns = 4 if plan.rotations else 1
        classes = sample_distinct(class_key, jnp.asarray(self.classes * turns, jnp.int32), plan.way)
        # [way, shot + query, height, width, channel]
        number = plan.shot + plan.query
        x = self.fetch(data, example_key, classes // turns, number)
        if x.shape[:2] != (plan.way, number):
            raise ValueError(
                f"episodes: fetch returned examples of shape {x.shape}; expected "
                f"[{plan.way}, {number}, ...], the examples of each class"
            )
        if plan.rotations:
            x = jax.vmap(rotate)(x, classes % 4)
        rows = x.reshape(-1, *x.shape[2:])  # [way * (shot + query), height, width, channel]
        x = prepare_examples(self.preparation, transform_key, rows).reshape(x.shape)
        support, query = _masks(plan, size_key)
        return Task(_batch(x[:, : plan.shot], support), _batch(x[:, plan.shot :], query))


def _sampler(plan: _EpisodePlan, fetch: Fetch, data: PyTree, classes: int) -> Sampler:
    prepare = preparation(plan.transform, plan.mean, plan.std)
    plan = plan._replace(transform=None, mean=None, std=None)
    return jax.tree_util.Partial(_EpisodeDraw(plan, prepare, fetch, classes), jax.device_put(data))


def _fetch_rows(dataset: ClassDataset, key: Key, classes: Array, number: int) -> Array:
    picks = sample_distinct(key, dataset.counts[classes], number)
    rows = dataset.offsets[classes][:, None] + picks  # [way, number]
    return jnp.asarray(dataset.examples).at[rows].get(mode="promise_in_bounds")


def _masks(plan: _EpisodePlan, key: Key) -> tuple[Array | None, Array | None]:
    """Mark the real rows of support [way, shot] and query [way, query]; None if all are."""
    if plan.min_way is None and plan.min_shot is None:
        return None, None
    least_way = plan.way if plan.min_way is None else plan.min_way
    least_shot = plan.shot if plan.min_shot is None else plan.min_shot
    choices = jnp.array([plan.way - least_way + 1, plan.shot - least_shot + 1], jnp.int32)
    way, shot = jnp.array([least_way, least_shot], jnp.int32) + uniform_below(key, choices)
    present_classes = jnp.arange(plan.way, dtype=jnp.int32) < way
    present_shots = jnp.arange(plan.shot, dtype=jnp.int32) < shot
    query = jnp.broadcast_to(present_classes[:, None], (plan.way, plan.query))
    return present_classes[:, None] & present_shots[None, :], query


def _batch(x: Array, mask: Array | None) -> Batch:
    way, number = x.shape[:2]
    labels = jnp.repeat(jnp.arange(way, dtype=jnp.int32), number)
    x = x.reshape(way * number, *x.shape[2:])  # [example, height, width, channel]
    if mask is None:
        return Batch(x, labels)
    mask = mask.reshape(-1)  # [example]
    real = mask.reshape(-1, *[1] * (x.ndim - 1))  # [example, 1, 1, 1]
    return Batch(jnp.where(real, x, 0), labels, mask.astype(jnp.float32))


def _check_rows(dataset: ClassDataset, counts: np.ndarray) -> None:
    """Raise ValueError if a class is empty or has rows that are not among the examples."""
    offsets, total = np.asarray(dataset.offsets), dataset.examples.shape[0]
    if offsets.shape != counts.shape or counts.min() < 1:
        raise ValueError(
            f"episodes: offsets {offsets.shape} and counts {counts.shape} of classes, the smallest of "
            f"{counts.min()} examples; expected one of each for every class, and an example in each"
        )
    first, end = int(offsets.min()), int((offsets + counts).max())
    if first < 0 or end > total:
        raise ValueError(
            f"episodes: the classes have rows {first}..{end - 1}, there are {total} examples; expected "
            f"0..{total - 1}"
        )


def _check(plan: _EpisodePlan, classes: int, shape: tuple[int, ...]) -> None:
    for name in ("way", "shot", "query"):
        value = getattr(plan, name)
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"episodes: {name} is {value!r}; expected an integer, at least 1")
    for name, most in {"min_way": plan.way, "min_shot": plan.shot}.items():
        value = getattr(plan, name)
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"episodes: {name} is {value}; expected 1 to {most}, the largest of an episode")
    for name, numbers in {"mean": plan.mean, "std": plan.std}.items():
        value = np.asarray(numbers)
        if value.size != 1 and shape[-1:] != value.shape:
            raise ValueError(
                f"episodes: {name} has {value.size} numbers, these examples are {shape}; expected one "
                "number, or one a channel"
            )
    if plan.rotations and (len(shape) != 3 or shape[0] != shape[1]):
        raise ValueError(
            f"episodes: rotations ask for square images [side, side, channel], these examples are {shape}; "
            "resize them or leave rotations out"
        )
    available = classes * (4 if plan.rotations else 1)
    if available < plan.way:
        raise ValueError(
            f"episodes: way {plan.way} asks for {plan.way} classes, there are {available}; lower way"
            + ("" if plan.rotations or len(shape) != 3 else " or use rotations=True")
        )
