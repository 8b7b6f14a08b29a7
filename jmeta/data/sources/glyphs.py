"""Glyphs: 28 x 28 characters of random strokes, drawn on the device, that need no data to be downloaded.

A class is a character: two to four cubic Bezier strokes, most starting on the stroke before. An example is
one drawer's attempt at it: control points off their places, a bend of the whole, a slant, a turn, a size, a
place on the page and a pen of another width. The characters are in the manner of Omniglot (Lake et al. 2015).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jmeta.data.class_dataset import ClassDataset
from jmeta.data.episodes import episodes_from, from_splits
from jmeta.data.source import SPLITS, Dataset, DatasetInfo, Sampler, check_split
from jmeta.data.sources.authors import LICENSES
from jmeta.types import Array, Key

SIDE = 28
STROKES = 4
DOTS = 16  # of ink along a stroke: closer than the pen is wide
EVEN = np.linspace(0, 1, DOTS)
# Denser at the ends, where a curve is fast.
PLACES = (EVEN - np.sin(2 * np.pi * EVEN) / 12).astype(np.float32)
NOISE = STROKES * 8 + 11  # numbers that make one drawer's attempt
_CLASSES = 2**20  # of each split: more than any run draws


class Character(NamedTuple):
    """A class: `points` [stroke, 4, 2], cubic Bezier control points as (x, y) in -1..1, y downwards, and
    `present` [stroke], 1 for the strokes that it has."""

    points: Array
    present: Array


def glyph_dataset(*, classes: int | None = None, drawers: int = 20, seed: int = 0) -> Dataset:
    """Make the data set of glyphs, whose splits "train", "validation" and "test" share no class.

    The options of its `episodes` are those of `jmeta.data.episodes.episodes`.

    Args:
      classes: if set, that many characters a split are drawn once and episodes choose among those images, as
        from a real data set of that size; else every episode draws new characters, from 2^20 a split.
      drawers: images of each of these characters.
      seed: another seed makes other characters.

    Raises:
      ValueError: for numbers below 1.
    """
    for name, value in {"classes": classes, "drawers": drawers}.items():
        if value is not None and value < 1:
            raise ValueError(f"glyphs: {name} is {value}; expected at least 1")
    info = DatasetInfo(
        name="glyphs",
        license=LICENSES["glyphs"],
        split="procedural: class c of split s (0, 1, 2) is character 3 c + s",
        classes={},
        shape=(SIDE, SIDE, 1),
        notes=(f"{_CLASSES if classes is None else classes} classes a split, seed {seed}",),
    )
    if classes is None:
        return Dataset(info, partial(_episodes, seed))
    return from_splits(info, {split: _pool(split, classes, drawers, seed) for split in SPLITS})


def _episodes(seed: int, split: str, **options: Any) -> Sampler:
    data = np.uint32(seed), np.uint32(SPLITS.index(check_split(split)))
    return episodes_from(_fetch, data, classes=_CLASSES, shape=(SIDE, SIDE, 1), **options)


def _fetch(data: tuple[Array, Array], key: Key, classes: Array, number: int) -> Array:
    """Draw `number` examples [way, number, 28, 28, 1] of each class index of `classes` [way]."""
    seed, split = data
    numbers = 3 * classes.astype(jnp.uint32) + split
    class_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
    return jax.vmap(draw_glyph, (0, 0, None))(
        jax.random.split(key, classes.shape[0]), jax.vmap(character)(class_keys), number
    )


def _pool(split: str, classes: int, drawers: int, seed: int) -> ClassDataset:
    """Draw a fixed set of images, a hundred classes at a time."""
    index = np.uint32(SPLITS.index(split))
    pool_key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1 - index)  # no character's key
    fetch = jax.jit(_fetch, static_argnums=3)

    def block(start: int) -> np.ndarray:
        chosen = jnp.arange(start, start + 100, dtype=jnp.int32)
        images = fetch((np.uint32(seed), index), jax.random.fold_in(pool_key, start), chosen, drawers)
        pixels = np.asarray(jnp.round(images * 255).astype(jnp.uint8))  # [class, drawer, side, side, 1]
        return pixels.reshape(-1, SIDE, SIDE, 1)  # [class * drawer, side, side, 1]

    examples = np.concatenate([block(start) for start in range(0, classes, 100)])[: classes * drawers]
    offsets = drawers * np.arange(classes, dtype=np.int32)
    return ClassDataset(examples, offsets, np.full(classes, drawers, np.int32))


def character(key: Key) -> Character:
    """Make the character of a class key: 2 to 4 strokes, centered and of similar extent."""
    draws = jax.random.uniform(key, (STROKES * 8 + 1,), jnp.float32)
    x, y, angle, length, bend, twist, attached, place = draws[1:].reshape(8, STROKES)  # each [stroke]
    angle = 2 * jnp.pi * angle
    across = (0.6 + length)[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    normal = jnp.stack([-across[:, 1], across[:, 0]], axis=1)
    inner = (
        across / 3 + 1.8 * (bend - 0.5)[:, None] * normal,
        across * 2 / 3 + 1.8 * (twist - 0.5)[:, None] * normal,
    )
    lines = jnp.stack([jnp.zeros_like(across), *inner, across], axis=1)
    # Three in four start on the stroke before, a third of these at its end, the others along it.
    joints = jax.vmap(bezier)(lines, jnp.minimum(1.5 * place, 1)[:, None])[:, 0]
    starts = [1.6 * jnp.stack([x[0], y[0]]) - 0.8]
    for stroke in range(1, STROKES):
        free = 1.6 * jnp.stack([x[stroke], y[stroke]]) - 0.8
        starts.append(jnp.where(attached[stroke] < 0.75, starts[-1] + joints[stroke - 1], free))
    points = lines + jnp.stack(starts)[:, None]
    number = 2 + (draws[0] > 0.3).astype(jnp.int32) + (draws[0] > 0.7).astype(jnp.int32)
    present = jnp.arange(STROKES) < number
    real = present[:, None, None]
    low = jnp.where(real, points, jnp.inf).min((0, 1), keepdims=True)
    high = jnp.where(real, points, -jnp.inf).max((0, 1), keepdims=True)
    extent = jnp.maximum(high - low, 0.6 * (high - low).max())
    return Character((points - (low + high) / 2) * (1.4 / extent), present.astype(jnp.float32))


def draw_glyph(key: Key, glyph: Character, number: int) -> Array:
    """Draw a character as `number` drawers would: images [number, 28, 28, 1] float32, ink 1 on 0."""
    noise = jax.random.normal(key, (number * NOISE,), jnp.float32).reshape(number, NOISE)
    return jax.vmap(_attempt, (0, None))(noise, glyph)


def _attempt(noise: Array, glyph: Character) -> Array:
    """Draw one drawer's image [28, 28, 1] from normal numbers [NOISE]."""
    slips, whole, bend, pen = jnp.split(noise, [NOISE - 11, NOISE - 5, NOISE - 1])
    points = glyph.points + 0.06 * slips.reshape(glyph.points.shape)  # [stroke, 4, 2]
    dots = bezier(points, jnp.asarray(PLACES)).reshape(-1, 2)  # [stroke * dot, 2]
    waves = jnp.sin(1.7 * dots[:, ::-1] + 2 * bend[None, :2])
    dots = dots + 0.12 * waves * bend[None, 2:4]
    turn, slant = 0.16 * whole[0], 0.16 * whole[1]
    x, y = jnp.exp(0.12 * whole[2]) * dots[:, 0], jnp.exp(0.12 * whole[3]) * dots[:, 1]
    x = x + slant * y
    x, y = jnp.cos(turn) * x - jnp.sin(turn) * y, jnp.sin(turn) * x + jnp.cos(turn) * y
    dots = jnp.stack([x + 0.09 * whole[4], y + 0.09 * whole[5]], axis=1)
    return _ink(dots, glyph.present, 0.72 * jnp.exp(0.1 * pen[0]))[..., None]


def bezier(points: Array, places: Array) -> Array:
    """Evaluate cubic Bezier curves with control points [..., 4, 2] at `places` in 0..1: [..., place, 2]."""
    t = places[:, None]
    weights = jnp.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    return jnp.einsum("pc,...cd->...pd", weights, points)


def _ink(dots: Array, present: Array, width: Array) -> Array:
    """Ink strokes, `dots` [stroke * dot, 2], with a round brush of a `width` in pixels: [28, 28].

    Each dot is weighted by the length of stroke around it, so that a line is equally dark whatever the
    spacing of its dots; a sum of products of one function of x and one of y is a matrix product.
    """
    marks = (dots + 1) * ((SIDE - 1) / 2 / width)  # lengths in widths of the pen from here on
    lines = marks.reshape(STROKES, DOTS, 2)  # [stroke, dot, (x, y)]
    steps = jnp.sqrt(jnp.square(jnp.diff(lines, axis=1)).sum(-1) + 1e-6)
    lengths = (jnp.pad(steps, ((0, 0), (1, 0))) + jnp.pad(steps, ((0, 0), (0, 1)))) / 2
    # [stroke * dot, 1]
    weights = (lengths * present[:, None]).reshape(-1, 1) / np.sqrt(2 * np.pi).astype(np.float32)
    grid = jnp.arange(SIDE, dtype=jnp.float32) / width
    rows = jnp.exp(-jnp.square(grid[:, None] - marks[None, :, 1]) / 2)
    columns = jnp.exp(-jnp.square(grid[None, :] - marks[:, :1]) / 2) * weights
    return jnp.clip(1.8 * rows @ columns - 0.5, 0, 1)
