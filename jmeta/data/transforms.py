"""Augmentations of images: pure functions of a key and images, composed by `chain` and chosen by name.

All take float images [example, height, width, channel] in 0..1 and return the same shape, with an
independent draw for every example. Whether to augment is the caller's choice: only in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jmeta.types import Array, Key

Transform = Callable[[Key, Array], Array]

LUMINANCE = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601


def chain(*transforms: Transform) -> Transform:
    """Compose transforms, the first one applied first, each with a key of its own."""

    def composed(key: Key, images: Array) -> Array:
        for index, transform in enumerate(transforms):
            images = transform(jax.random.fold_in(key, index), images)
        return images

    return composed


def normalize(mean: float | Sequence[float], std: float | Sequence[float]) -> Transform:
    """Make (images - mean) / std, with one number, or one a channel; draws nothing."""

    def transform(key: Key, images: Array) -> Array:
        shape = (1,) * (images.ndim - 1) + (-1,)  # [1, 1, 1, channel]
        center, scale = (jnp.asarray(value, images.dtype).reshape(shape) for value in (mean, std))
        return (images - center) / scale

    return transform


def horizontal_flip(key: Key, images: Array) -> Array:
    """Mirror each image left to right with probability one half."""
    flip = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def random_crop(padding: int) -> Transform:
    """Make a crop at a uniform place of the image padded with zeros: a shift by up to `padding` pixels."""

    def transform(key: Key, images: Array) -> Array:
        edge = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        starts = jax.random.randint(key, (images.shape[0], 2), 0, 2 * padding + 1, jnp.int32)

        def crop(image: Array, start: Array) -> Array:
            return lax.dynamic_slice(image, (start[0], start[1], jnp.int32(0)), images.shape[1:])

        return jax.vmap(crop)(jnp.pad(images, edge), starts)

    return transform


def color_jitter(brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4) -> Transform:
    """Make random changes of brightness, contrast and saturation, in random order, of 1 or 3 channels.

    Each is a blend f x + (1 - f) reference, clipped to 0..1, with f uniform in 1 - strength..1 + strength;
    the reference is black, the mean luminance of the image, and the luminance of each pixel.
    """

    def transform(key: Key, images: Array) -> Array:
        order_key, factor_key = jax.random.split(key)
        order = jnp.argsort(jax.random.uniform(order_key, (images.shape[0], 3)), axis=1)
        strength = jnp.asarray([[brightness, contrast, saturation]], images.dtype)
        unit = jax.random.uniform(factor_key, (images.shape[0], 3), images.dtype, -1, 1)
        factors = jnp.take_along_axis(1 + strength * unit, order, axis=1)
        weights = _luminance_weights(images.shape[-1])
        # A list of [example, height, width]: operations on planes vectorize.
        planes = [images[..., channel] for channel in range(images.shape[-1])]
        for turn in range(3):
            which, factor = order[:, turn, None, None], factors[:, turn, None, None]
            luminance = jnp.asarray(sum(weight * plane for weight, plane in zip(weights, planes)))
            reference = jnp.where(which == 1, luminance.mean((1, 2), keepdims=True), luminance)
            shift = (1 - factor) * jnp.where(which == 0, 0, reference)
            planes = [jnp.clip(factor * plane + shift, 0, 1) for plane in planes]
        return jnp.stack(planes, axis=-1)  # [example, height, width, channel]

    return transform


def _luminance_weights(channels: int) -> tuple[float, ...]:
    if channels not in (1, 3):
        raise ValueError(f"color_jitter: images of {channels} channels; expected 1 or 3")
    return LUMINANCE if channels == 3 else (1.0,)


def crop_flip(key: Key, images: Array) -> Array:
    """Crop with 4 pixels of padding, and mirror: the usual training on CIFAR (He et al. 2016)."""
    return chain(random_crop(4), horizontal_flip)(key, images)


def crop_flip_jitter(key: Key, images: Array) -> Array:
    """Crop with padding, jitter the colors, mirror: the training of Lee et al. (2019, MetaOptNet) on
    CIFAR-FS and miniImageNet. The padding is 4 pixels below a side of 64 (32 x 32), else 8 (84 x 84)."""
    padding = 4 if images.shape[1] < 64 else 8
    return chain(random_crop(padding), color_jitter(), horizontal_flip)(key, images)


AUGMENTATIONS: dict[str, Transform | None] = {
    "none": None,
    "crop_flip": crop_flip,
    "crop_flip_jitter": crop_flip_jitter,
}


def augmentation(name: str) -> Transform | None:
    """Look up an augmentation by name; "none" is None. Raises ValueError for an unknown name."""
    if name not in AUGMENTATIONS:
        raise ValueError(f"augmentation {name!r} is not one of {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name]
