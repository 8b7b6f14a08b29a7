import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.data import transforms


def images(number, side=6, channels=3, value=None):
    if value is not None:
        return jnp.full((number, side, side, channels), value, jnp.float32)
    return jnp.asarray(
        np.random.default_rng(0).uniform(0.3, 0.6, (number, side, side, channels)), jnp.float32
    )


def luminance(x):
    return np.asarray(x) @ np.array(transforms.LUMINANCE)


def test_crop_shifts_every_image_by_its_own_offset():
    x = images(400)
    out = np.asarray(jax.jit(transforms.random_crop(1))(jax.random.key(0), x))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = np.stack([padded[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)])
    which = (shifts == out).all((2, 3, 4))
    assert (which.sum(0) == 1).all()
    counts = which.sum(1)
    assert (np.abs(counts - 400 / 9) < 5 * np.sqrt(400 / 9)).all(), counts


def test_flip_mirrors_half_of_the_images():
    x = images(400)
    out = np.asarray(transforms.horizontal_flip(jax.random.key(0), x))
    flipped = (out == np.asarray(x)[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(out[~flipped], x[~flipped])
    assert abs(flipped.sum() - 200) < 50


def test_brightness_scales():
    x = images(200)
    ratio = np.asarray(jax.jit(transforms.color_jitter(0.4, 0, 0))(jax.random.key(0), x) / x)
    factors = ratio[:, 0, 0, 0]
    np.testing.assert_allclose(ratio, np.broadcast_to(factors[:, None, None, None], ratio.shape), rtol=1e-5)
    assert 0.6 <= factors.min() < 0.65
    assert 1.35 < factors.max() <= 1.4


def test_contrast_keeps_the_mean_and_saturation_every_luminance():
    x = images(50)
    key = jax.random.key(0)
    contrast = jax.jit(transforms.color_jitter(0, 0.4, 0))(key, x)
    saturation = jax.jit(transforms.color_jitter(0, 0, 0.4))(key, x)
    np.testing.assert_allclose(luminance(contrast).mean((1, 2)), luminance(x).mean((1, 2)), rtol=1e-3)
    spread = np.asarray(contrast).std((1, 2, 3)) / np.asarray(x).std((1, 2, 3))
    assert spread.min() < 0.8
    assert spread.max() > 1.2
    np.testing.assert_allclose(luminance(saturation), luminance(x), rtol=1e-3)
    assert np.abs(saturation - x).max() > 0.02


def test_jitter_changes_in_random_order_and_stays_in_range():
    """Of half 0 and half 0.75, which bounds are hit tells whether brightness or contrast came first."""
    x = jnp.where(jnp.arange(4).reshape(1, 2, 2, 1) < 2, 0.0, jnp.float32(0.75))
    out = jax.jit(transforms.color_jitter(1.0, 1.0, 0.0))(jax.random.key(1), jnp.tile(x, (2000, 1, 1, 1)))
    assert out.dtype == np.float32
    low, high = np.asarray(out)[:, 0, 0, 0], np.asarray(out)[:, 1, 1, 0]
    assert low.min() == 0
    assert high.max() == 1
    contrast_first = (low > 0.01) & (high == 1)  # brightened beyond white at last
    brightness_first = (low > 0.01) & (high < 0.999) & (np.abs(low + high - 1) < 1e-6)  # 0 and 1, then grayed
    assert contrast_first.sum() > 30
    assert brightness_first.sum() > 30


def test_crop_flip_jitter_draws_for_each_image_of_every_size():
    x = jnp.tile(images(1, side=8), (4, 1, 1, 1))
    program = jax.jit(transforms.crop_flip_jitter)
    out = program(jax.random.key(0), x)
    assert out.shape == x.shape
    assert len(np.unique(np.asarray(out).reshape(4, -1), axis=0)) == 4
    np.testing.assert_array_equal(out, program(jax.random.key(0), x))
    assert (out != program(jax.random.key(1), x)).any()


def test_chain_applies_in_order_with_keys_of_their_own():
    def noise(key, x):
        return x * 2 + jax.random.normal(key, x.shape, x.dtype)

    x, key = images(1), jax.random.key(0)
    out = transforms.chain(noise, noise, transforms.normalize([1.0, 2.0, 3.0], 2.0))(key, x)
    first = noise(jax.random.fold_in(key, 0), x)
    second = noise(jax.random.fold_in(key, 1), first)
    expected = (np.asarray(second) - np.array([1, 2, 3], np.float32)) / 2
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_names():
    assert transforms.augmentation("none") is None
    assert transforms.augmentation("crop_flip_jitter") is transforms.crop_flip_jitter
    with pytest.raises(ValueError, match="'blur' is not one of none, crop_flip, crop_flip_jitter"):
        transforms.augmentation("blur")
    with pytest.raises(ValueError, match="2 channels; expected 1 or 3"):
        transforms.color_jitter()(jax.random.key(0), images(1, channels=2))
