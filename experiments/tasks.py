"""From the flags of data and network to samplers of tasks and the network's settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.common import UsageError, parse_drops

if TYPE_CHECKING:
    from jmeta.data.source import Dataset


def open_dataset(settings: SimpleNamespace, name: str | None = None) -> Dataset:
    """The dataset called `name`, or that of `--dataset`, with the flags that it understands."""
    from jmeta.data.catalog import dataset

    options = {
        option: getattr(settings, option)
        for option in ("data_dir", "image_size", "split", "download")
        if getattr(settings, option, None)
    }
    return dataset(name or settings.dataset, **options)


def samplers(source: Dataset, settings: SimpleNamespace) -> dict[str, Any]:
    """Samplers of training, validation and test tasks."""
    from jmeta.data.source import SPLITS

    size = {"shot": settings.shot, "query": settings.query}
    if settings.dataset != "sinusoid":
        size["way"] = settings.way
    return {split: source.episodes(split, **size, **variations(split, settings)) for split in SPLITS}


def variations(split: str, settings: SimpleNamespace) -> dict[str, Any]:
    """What `--rotations` and `--augment` ask of the episodes of a split: only training tasks are varied."""
    if split != "train":
        return {}
    turned = {"rotations": True} if settings.rotations else {}
    return turned | ({} if settings.augment == "none" else {"transform": settings.augment})


def standardisation(source: Dataset, settings: SimpleNamespace) -> dict[str, tuple[float, ...]]:
    """The mean and deviation [channel] of the training split's images, scaled to 0..1, where `--standardise`
    asks for them."""
    if not settings.standardise:
        return {}
    images = np.asarray(source.splits["train"].examples)
    if images.dtype != np.uint8:
        raise UsageError(f"--standardise takes images of bytes; these are {images.dtype}")
    values = np.arange(256) / 255
    channels = np.moveaxis(images, -1, 0)
    shares = [np.bincount(channel.ravel(), minlength=256) / channel.size for channel in channels]
    means = [float(share @ values) for share in shares]
    deviations = [float(share @ (values - mean) ** 2) ** 0.5 for share, mean in zip(shares, means)]
    if not all(deviations):
        raise UsageError("--standardise: a channel of the training images is the same everywhere")
    return {"mean": tuple(means), "std": tuple(deviations)}


def stages(settings: SimpleNamespace, longest: int, unit: str) -> tuple[tuple[int, int], ...]:
    """`--curriculum` as (length, the outer update at which it ends); lengths in `unit`, 2 to `longest`."""
    try:
        lengths = [int(text) for text in settings.curriculum.split(",") if text]
    except ValueError:
        raise UsageError(f"--curriculum={settings.curriculum}; expected numbers such as 2,4,6,8") from None
    if lengths != sorted(set(lengths)) or any(not 2 <= length <= longest for length in lengths):
        raise UsageError(
            f"--curriculum={settings.curriculum}; expected increasing numbers from 2 to {longest} {unit}"
        )
    return tuple((length, settings.curriculum_every * (index + 1)) for index, length in enumerate(lengths))


def backbone(settings: SimpleNamespace) -> str:
    """`--backbone`, or what suits the data."""
    suited = {"features": "identity", "sinusoid": "mlp"}
    return settings.backbone or suited.get(settings.dataset, "conv4")


def model_recipe(settings: SimpleNamespace) -> dict[str, Any]:
    """Name and settings of the network, for `jmeta.models.catalog.build`."""
    name = backbone(settings)
    recipe: dict[str, Any] = {"name": name}
    if name in ("conv4", "conv_encoder"):
        recipe["filters"] = settings.filters
    if name == "mlp":
        recipe["widths"] = [settings.filters] * 2
    if name == "resnet12":
        recipe["drop_block"] = settings.drop_block
        recipe["global_pool"] = settings.global_pool
    if getattr(settings, "normalise_features", False):
        recipe["normalise_features"] = True
    return recipe


def optimiser_recipe(settings: SimpleNamespace) -> dict[str, Any]:
    """Settings of the outer optimiser, for `jmeta.outer.optimiser.optimiser`; Adam where no flag says."""
    return {
        "name": getattr(settings, "optimizer", "adam"),
        "learning_rate": settings.learning_rate,
        "drops": parse_drops(settings.learning_rate_drops),
        "weight_decay": settings.weight_decay,
        "clip_norm": settings.clip_norm,
    }


def stray(settings: SimpleNamespace) -> dict[str, str]:
    """Flags of data and network that the chosen dataset and backbone do not use, and why."""
    network = backbone(settings)
    return stray_data(settings) | _where(
        ("filters", network in ("resnet12", "identity"), f"the widths of {network} are fixed"),
        ("drop_block global_pool", network != "resnet12", f"{network} has none"),
        ("norm", network in ("mlp", "identity", "conv_encoder"), f"{network} has no batch normalisation"),
        ("normalise_features", network == "identity", "the features are given"),
        ("normalise_features", network == "conv_encoder", "conv_encoder has no such option"),
    )


def stray_data(settings: SimpleNamespace) -> dict[str, str]:
    """Flags of data and training that the chosen dataset and `--eval_only` do not use, and why."""
    data = settings.dataset
    return _where(
        ("data_dir download", data in ("glyphs", "sinusoid"), f"{data} is made, not read"),
        ("split", data not in ("omniglot", "folder", "features"), f"{data} has one split"),
        ("image_size rotations augment", data in ("features", "sinusoid"), f"{data} has no images"),
        ("image_size", data == "glyphs", "glyphs are drawn at 28x28"),
        ("standardise", data == "glyphs", "glyphs are drawn anew for each task and have no mean"),
        ("way", data == "sinusoid", "a sinusoid is a regression"),
        ("label_smoothing", data == "sinusoid", "a regression has no labels"),
        ("learning_rate weight_decay clip_norm learning_rate_drops optimizer meta_batch steps max_minutes "
         "eval_every validation_tasks checkpoint_every log_every rotations augment skip_nonfinite",
         settings.eval_only, "--eval_only trains nothing"),
        ("validation_tasks", not settings.eval_every, "--eval_every=0 validates nothing"),
    )  # fmt: skip


def _where(*rules: tuple[str, object, str]) -> dict[str, str]:
    """Of rules (flags, condition, reason): the reason of each flag whose condition holds."""
    return {name: why for names, holds, why in rules if holds for name in names.split()}
