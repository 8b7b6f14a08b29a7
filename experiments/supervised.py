"""Ordinary image classification by networks whose convolutions are ConvLSTM cells, beside the plain networks.

Babu, Savarese & Maire, Online Meta-Learning via Learning with Layer-Distributed Memory, NeurIPS 2021, section
4.5 and Table 5: VGG-11 and ResNet-20 on CIFAR-10 and CIFAR-100, with every width times --shrink. The accuracy
is that of the whole test set.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import jmeta
from experiments import flags
from experiments.cli import launch
from experiments.errors import UsageError, usage_errors
from experiments.presets import cl_lstm as paper
from experiments.settings import Experiment
from jmeta import registry

if TYPE_CHECKING:
    from experiments.runner import Run
    from jmeta.data.class_dataset import ClassDataset
    from jmeta.data.source import Dataset

ALGORITHMS: dict[str, tuple[str, ...]] = {"vgg11": (), "cl_vgg11": (), "resnet20": (), "cl_resnet20": ()}
# Mean and deviation of the training images' channels.
CHANNELS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
TEST_BATCH = 100


def main(run: Run) -> int:
    """Train and test."""
    import jax

    settings, algorithm = run.settings, run.settings.algorithm
    with usage_errors():
        source = run.dataset()
        check_classes(source)
        train, held_out = hold_out(source.splits["train"], settings.held_out)
        if settings.eval_every and held_out is None:
            raise UsageError("--eval_every validates on --held_out images, and none are held out")
        test = source.splits["test"]
        size = widths(algorithm, settings.shrink)
        network = {"name": algorithm, "widths": size, "head": len(test.counts)}
        mean, std = CHANNELS[settings.dataset]
        spec = run.learner(
            {
                "name": "standardize_inputs",
                "adapter": {"name": "plain", "model": network},
                "mean": mean,
                "std": std,
            },
            {"name": "cross_entropy", "smoothing": settings.label_smoothing},
            {"name": "accuracy"},
            tx={
                "name": "sgd",
                "cosine_steps": settings.cosine_steps or None,
                **settings.take("learning_rate", "weight_decay"),
            },
            test_loss={"name": "cross_entropy"},
            chunk=jax.device_count(),  # of the test batches, to bound memory
        )
        samplers = {
            "train": jmeta.supervised_batches(train, size=settings.batch, transform=settings.augment),
            "validation": None if held_out is None else jmeta.full_batches(held_out, size=TEST_BATCH),
            "test": jmeta.full_batches(test, size=TEST_BATCH),
        }
    return run.fit_episodes(
        spec,
        source,
        **samplers,
        published=published_row(algorithm, settings.dataset, settings.shrink),
        validation_tasks=settings.held_out // TEST_BATCH,
        eval_tasks=int(sum(test.counts)) // TEST_BATCH,
    )


def check_classes(source: Dataset) -> None:
    """Raise UsageError unless the training and test images have one list of classes."""
    train, test = ((len(source.splits[part].counts), source.info.classes[part]) for part in ("train", "test"))
    if train != test:
        raise UsageError(
            f"{source.info.name}: {train[0]} classes of training images and {test[0]} of test images; "
            "expected the same classes in the same order (jmeta.from_arrays takes the list as `classes`)"
        )


def widths(algorithm: str, shrink: float) -> list[int]:
    """Multiply the widths of a network by `shrink`, cut to integers: of ResNet each width, of VGG the first,
    which then doubles, as the parameter counts of Table 5 have it."""
    plain = inspect.signature(registry.factory("model", algorithm)).parameters["widths"].default
    if "resnet" in algorithm:
        return [int(width * shrink) for width in plain]
    return [int(plain[0] * shrink) * (width // plain[0]) for width in plain]


def hold_out(images: ClassDataset, number: int) -> tuple[ClassDataset, ClassDataset | None]:
    """Divide training images into those to train on and the `number` held out, the last of each class; None
    if there are none.

    Raises UsageError if they do not divide over the classes, or all would be held out.
    """
    if not number:
        return images, None
    classes = len(images.counts)
    each = number // classes
    if number % classes or not 0 < each < images.counts.min():
        raise UsageError(f"--held_out={number}; expected a multiple of the {classes} classes, not all images")
    train = images._replace(counts=images.counts - each)
    return train, images._replace(offsets=images.offsets + train.counts, counts=0 * images.counts + each)


def published_row(algorithm: str, dataset: str, shrink: float) -> dict[str, Any] | None:
    """Name the row of Table 5, None for a plain network that is not as wide as the paper's."""
    recurrent = algorithm.startswith("cl_")
    if not recurrent and shrink != 1:
        return None
    variant = f"{shrink}x" if recurrent else None
    return {
        "dataset": dataset,
        "method": paper.PAPER_NAMES[algorithm],
        "variant": variant,
        "paper": "cl_lstm",
    }


FLAGS = flags.pick(
    "algorithm", "dataset", "data_dir", "download", "shrink", "batch", "augment", "held_out", "cosine_steps",
    "learning_rate", "weight_decay", "label_smoothing", "steps", "eval_every", "checkpoint_every",
    "log_every", "max_minutes", "seed", "init_from", "eval_only", "workdir", "preset", "distributed",
    "precision",
    choices={"algorithm": ALGORITHMS, "dataset": CHANNELS, "augment": ("none", "crop_flip")},
    helps={
        "algorithm": "the network",
        "dataset": "the images",
        "shrink": "factor of the plain network's widths",
        "steps": "steps; 391 are an epoch of 128 images each",
        "eval_every": "steps between validations, the best of which is tested, 0 for none",
        "learning_rate": "learning rate, from which it falls to 0",
        "weight_decay": "added to the gradient of every array",
        "label_smoothing": "share of a label spread over the classes while training",
        "checkpoint_every": "steps between checkpoints",
        "log_every": "steps between lines of metrics.jsonl",
        "seed": "seed of initial parameters and batches",
    },
    defaults={"algorithm": "cl_resnet20", "dataset": "cifar100", "batch": 128, "augment": "crop_flip",
              "weight_decay": 5e-4, "steps": 78200, "eval_every": 0, "checkpoint_every": 1000},
)  # fmt: skip
EXPERIMENT = Experiment(
    "supervised",
    __doc__ or "",
    FLAGS,
    main,
    paper.SUPERVISED,
    ALGORITHMS,
    paper.supervised_row,
    lambda settings: published_row(settings.algorithm, settings.dataset, settings.shrink),
    {"Outer loop": "Training"},
)

if __name__ == "__main__":
    launch(EXPERIMENT)
