"""The parts of an experiment that shared flags describe: data, tasks, network, outer optimizer, learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.errors import UsageError, as_flags, usage_errors
from experiments.flags import whole_number
from experiments.settings import Settings, parse_drops
from jmeta.data.datasets import dataset
from jmeta.data.source import SPLITS, Dataset, Sampler
from jmeta.outer.progress import announce
from jmeta.registry import REGISTRY

Spec = dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """The parts that the `settings` of a run describe; networks, optimizers and learners as specs."""

    settings: Settings

    @usage_errors()
    def dataset(self, name: str | None = None) -> Dataset:
        """Open the dataset called `name`, or that of `--dataset`, with the flags that it understands; print
        its notes, in the words of flags, for people."""
        name = name or self.settings.dataset
        own = ("color",) if name == "folder" else ()
        options = self.settings.take("data_dir", "image_size", "split", "download", *own)
        if name in REGISTRY["locator"]:
            announce(f"reading {name}")
        source = dataset(name, **{key: value for key, value in options.items() if value})
        for note in source.info.notes:
            announce(f"{source.info.name}: {as_flags(note, self.settings)}")
        return source

    @usage_errors()
    def episodes(self, source: Dataset, **options: Any) -> dict[str, Sampler]:
        """Make samplers of training, validation and test tasks of --way, --shot and --query."""
        size = self.settings.take("shot", "query")
        if self.settings.dataset != "sinusoid":
            size |= self.settings.take("way")
        shot = self.settings.get("train_shot")
        sizes = {split: size | ({"shot": shot} if shot and split == "train" else {}) for split in SPLITS}
        return {
            split: source.episodes(split, **sizes[split], **self.variations(split), **options)
            for split in SPLITS
        }

    def variations(self, split: str) -> dict[str, Any]:
        """List the options of `--rotations` and `--augment`: only training tasks are varied."""
        if split != "train":
            return {}
        rotations = {"rotations": True} if self.settings.rotations else {}
        augment = self.settings.augment
        return rotations | ({} if augment == "none" else {"transform": augment})

    def backbone(self, **options: Any) -> Spec:
        """Describe the network of --backbone up to its features."""
        settings, name = self.settings, self.settings.backbone
        spec: Spec = {"name": name, **options}
        if name in ("conv4", "conv_encoder"):
            spec["filters"] = settings.filters
        if name == "mlp":
            spec["widths"] = [settings.filters] * 2
        if name == "resnet12":
            spec |= settings.take("drop_block", "global_pool")
        if name == "conv4":
            spec |= {key: value for key in ("padded", "pool") if (value := settings.get(key)) is not None}
        if settings.get("normalize_features"):
            spec["normalize_features"] = True
        return spec

    def whole_network(self, outputs: int, **options: Any) -> Spec:
        """Describe the network of --backbone with a last layer, for weights that differ from task to task."""
        if self.settings.backbone == "identity":
            return {"name": "mlp", "widths": [], "outputs": outputs}
        last = {"outputs": outputs} if self.settings.backbone == "mlp" else {"head": outputs}
        per_task = {} if self.settings.backbone == "mlp" else {"weights": "per_task"}
        return self.backbone(**options) | last | per_task

    def optimizer(self) -> Spec:
        """Describe the outer optimizer; Adam if no flag says."""
        linear = self.settings.get("linear_steps")
        return {
            "name": self.settings.get("optimizer", "adam"),
            "drops": parse_drops(self.settings.learning_rate_drops),
            **({"linear_steps": linear} if linear else {}),
            **self.settings.take("learning_rate", "weight_decay", "clip_norm", "clip_value"),
        }

    def learner(
        self, adapter: Spec, loss: Spec | None, metrics: Spec, tx: Spec | None = None, **options: Any
    ) -> Spec:
        """Describe the learner around an adapter, with --chunk, --skip_nonfinite and --num_seeds; `tx` in the
        place of the flags' optimizer."""
        spec = {
            "name": "learner",
            "adapter": adapter,
            "loss": loss,
            "tx": tx or self.optimizer(),
            "metrics": metrics,
            **self.settings.take("chunk"),
            **options,
        }
        if self.settings.get("skip_nonfinite"):
            spec = {"name": "skip_nonfinite", "learner": spec}
        return {"name": "vmap_seeds", "learner": spec} if self.settings.get("num_seeds", 1) > 1 else spec

    def standardized(self, adapter: Spec, source: Dataset) -> Spec:
        """Describe the adapter for images of 0..1, with the mean and deviation [channel] of the training
        split in front of it if `--standardize` asks for them."""
        if not self.settings.standardize:
            return adapter
        mean, std = _channel_statistics(np.asarray(source.splits["train"].examples))
        return {"name": "standardize_inputs", "adapter": adapter, "mean": mean, "std": std}

    def curriculum(self, longest: int, unit: str) -> tuple[tuple[int, int], ...]:
        """Read `--curriculum` as (length, last outer update); lengths in `unit`, 2 to `longest`."""
        text, every = self.settings.curriculum, self.settings.curriculum_every
        try:
            lengths = [whole_number(part) for part in text.split(",") if part]
        except ValueError:
            raise UsageError(f"--curriculum={text}; expected numbers such as 2,4,6,8") from None
        if lengths != sorted(set(lengths)) or any(not 2 <= length <= longest for length in lengths):
            raise UsageError(f"--curriculum={text}; expected increasing numbers from 2 to {longest} {unit}")
        return tuple((length, every * (index + 1)) for index, length in enumerate(lengths))


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and deviation [channel] of images of bytes [..., channel], scaled to 0..1."""
    if images.dtype != np.uint8:
        raise UsageError(f"--standardize takes images of bytes; these are {images.dtype}")
    values = np.arange(256) / 255
    channels = np.moveaxis(images, -1, 0)  # [channel, ...]
    shares = [np.bincount(channel.ravel(), minlength=256) / channel.size for channel in channels]
    means = [float(share @ values) for share in shares]
    deviations = [float(share @ (values - mean) ** 2) ** 0.5 for share, mean in zip(shares, means)]
    if not all(deviations):
        raise UsageError("--standardize: a channel of the training images is the same everywhere")
    return tuple(means), tuple(deviations)
